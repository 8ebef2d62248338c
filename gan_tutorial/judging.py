"""Judging a GAN: a small network that looks at digits, and what to measure with its eyes (notebook 22).

``python -m gan_tutorial.judging`` trains the judge again and writes ``gan_tutorial/results/judge.safetensors``.
"""

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from gan_tutorial._sources import DataError, replacing
from gan_tutorial.data import DIGITS, PIXELS, MnistDataset, load_mnist
from gan_tutorial.device import set_seed

JUDGE_FILE = Path(__file__).parent / "results" / "judge.safetensors"
JUDGE_SHA256 = "7ad9ca142e4818b92c6ae22ced6b464ce4c0f30299cc2498cbbf35622630b004"  # of that file
FEATURES = 64
EPOCHS, BATCH_SIZE, LEARNING_RATE = 4, 100, 3e-3
NEIGHBORS = 5  # k of precision, recall, density and coverage
COVERED = 0.01  # a digit is covered if it is at least this share of the images: a tenth of a fair share
CHUNK = 2**23  # distances held in memory at once
CHECKED_FOR_COPIES = 1_000  # images compared with all training images, pixel by pixel
COPY = 0.5  # nearer than this to a training image, with 1 as usual for the digit, counts as a copy


# ---- the judge -------------------------------------------------------------------------------------------------


class Judge(nn.Module):
    """A small convolutional network that tells digits apart, and what it sees just before it decides.

    Attributes:
        see: images (n, 1, 28, 28) to features (n, 64), none below 0.
        decide: features to logits (n, 10), one a digit.
        recipe: how it was trained, as text; empty if it was not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=5, padding=2, stride=2),  # (n, 16, 14, 14)
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=5, padding=2, stride=2),  # (n, 32, 7, 7)
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, FEATURES),
            nn.ReLU(),
        )
        self.decide = nn.Linear(FEATURES, DIGITS)
        self.recipe: dict[str, str] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 784), float32 in 0..1, to logits (n, 10)."""
        return self.decide(self.see(images.reshape(-1, 1, 28, 28)))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return what the judge sees in images (n, 784): float64 (n, 64) on the CPU, whatever the device.

        Raises:
            ValueError: the images have another shape, or values outside 0..1.
        """
        check_images(images)
        device = next(self.parameters()).device
        seen = [self.see(part.to(device).reshape(-1, 1, 28, 28)) for part in images.float().split(1_000)]
        return torch.cat(seen).to("cpu").double()

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """Return the probabilities of the digits, float64 (n, 10) on the CPU, of features (n, 64)."""
        device = next(self.parameters()).device
        return self.decide(features.float().to(device)).to("cpu").double().softmax(dim=1)

    def digits(self, images: Tensor) -> Tensor:
        """Return the digit that the judge reads in each of images (n, 784): int64 (n,) on the CPU."""
        return self.probabilities(self.features(images)).argmax(dim=1)


def check_images(images: Tensor) -> None:
    """Raise a ValueError unless ``images`` is (n, 784) with values in 0..1."""
    if images.dim() != 2 or images.shape[1] != PIXELS or len(images) == 0:
        raise ValueError(
            f"The images have shape {tuple(images.shape)}; expected (n, {PIXELS}) with n of 1 or more. "
            "Try images.reshape(-1, 784)."
        )
    low, high = images.min().item(), images.max().item()
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # written so that nan is refused, too
        raise ValueError(
            f"The images have values from {low:.3g} to {high:.3g}; expected 0..1. After a tanh use (images + 1) / 2; "
            "logits need a sigmoid; nan means that the training diverged."
        )


def train_judge(dataset: MnistDataset, seed: int = 0, epochs: int = EPOCHS, images_per_epoch: int = 60_000) -> Judge:
    """Train a judge on shuffled batches with Adam, its learning rate falling in a straight line to 0.

    Args:
        dataset: what to learn from; the judge lives on its device.
        seed: of the first weights, and of the order of the images.
        epochs: how many times ``images_per_epoch`` images are shown; a smaller ``dataset`` is passed over again.
        images_per_epoch: images that make one epoch.
    """
    set_seed(seed)
    judge = Judge().to(dataset.images.device)
    steps = max(1, epochs * images_per_epoch // BATCH_SIZE)
    optimizer = torch.optim.Adam(judge.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _, batch in zip(range(steps), shuffled_batches(len(dataset), seed), strict=False):
        loss = nn.functional.cross_entropy(judge(dataset.images[batch]), dataset.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    judge.recipe = recipe(dataset, seed, steps)
    return judge.eval()


def shuffled_batches(size: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of indices for ever, in a new order on each pass."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).split(BATCH_SIZE)


def recipe(dataset: MnistDataset, seed: int, steps: int) -> dict[str, str]:
    """Return in words how a judge is trained, and with which data and versions."""
    return {
        "recipe": f"{steps} steps of Adam from {LEARNING_RATE} to 0, batches of {BATCH_SIZE}, cross entropy",
        "seed": str(seed),
        "data": f"{dataset.name}, {len(dataset)} training images",
        "data_sha256": dataset.sha256,
        "device": str(dataset.images.device),
        "threads": str(torch.get_num_threads()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def accuracy(judge: Judge, images: Tensor, labels: Tensor) -> float:
    """Return the share of images (n, 784) in which the judge reads the label (n,); of generated ones, too.

    Raises:
        ValueError: not one label for each image; see `check_images`.
    """
    if labels.shape != images.shape[:1]:
        raise ValueError(f"The labels are {tuple(labels.shape)}, expected ({len(images)},): one for each image.")
    return (judge.digits(images) == labels.to("cpu")).double().mean().item()


def save_judge(judge: Judge, file: Path) -> None:
    """Write the judge's numbers, and its recipe as the file's metadata, as safetensors (no pickle)."""
    tensors = {name: tensor.to("cpu").contiguous() for name, tensor in judge.state_dict().items()}
    with replacing(file) as unfinished:
        unfinished.write(save(tensors, metadata=judge.recipe))


def load_judge(file: Path = JUDGE_FILE, device: torch.device | str = "cpu") -> Judge:
    """Return a judge from its file; without arguments the course's own, so that all GANs meet the same ruler.

    Raises:
        ValueError: the file is missing, damaged, or holds another network; or the course's own was changed.
    """
    advice = "Make it again with `python -m gan_tutorial.judging`."
    if not file.is_file():
        raise ValueError(f"There is no judge in {file}. {advice}")
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if file.resolve() == JUDGE_FILE.resolve() and found != JUDGE_SHA256:
        raise ValueError(
            f"{file} is not the course's judge: its SHA-256 is {found}, expected {JUDGE_SHA256}. Take the committed "
            "file or install the package again; if it was trained anew on purpose, write the new one in JUDGE_SHA256."
        )
    judge = Judge()
    try:
        judge.load_state_dict(load(content))
        size = int.from_bytes(content[:8], "little")  # safetensors: 8 bytes that tell the size of a JSON header
        judge.recipe = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, RuntimeError) as problem:
        raise ValueError(f"{file.name} does not hold a judge: {str(problem).splitlines()[0]} {advice}") from None
    return judge.to(device).eval()


def check_place(file: Path) -> None:
    """Raise a ValueError if ``file`` belongs to an installed package, not to a checkout of the course: read only."""
    root = Path(__file__).parents[1]
    if file.parent == JUDGE_FILE.parent and not ((root / "pyproject.toml").is_file() and (root / "notebooks").is_dir()):
        raise ValueError(f"{file} belongs to the installed package and is read only: work in a checkout of the course.")


# ---- the rulers ------------------------------------------------------------------------------------------------


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Return the Frechet distance of two clouds of features (n, f), (m, f), each taken for a Gaussian.

    ``|mean - mean'|^2 + trace(C + C' - 2 (C C')^(1/2))``; 0 for equal clouds (Dowson and Landau 1982; Heusel et al.
    2017, arXiv:1706.08500, with the features of another judge). The trace of the root is the sum of the square roots
    of the eigenvalues of ``C^(1/2) C' C^(1/2)``, which are those of ``C C'``, but real whatever the rounding.

    Raises:
        ValueError: less than two images in a cloud.
    """
    if min(len(real), len(generated)) < 2:
        raise ValueError("The Frechet distance needs 2 or more images on either side: one has no spread.")
    difference = real.double().mean(dim=0) - generated.double().mean(dim=0)
    covariance, other = (torch.atleast_2d(cloud.double().T.cov()) for cloud in (real, generated))
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    distance = difference @ difference + covariance.trace() + other.trace() - 2 * shared
    return max(0.0, distance.item())  # rounding alone could make it a little less


def mnist_score(probabilities: Tensor) -> float:
    """Return the MNIST score of the judge's probabilities (n, 10): 1 (worst) to 10.

    ``exp`` of the mean Kullback-Leibler divergence of each row from the mean row: high if each image is clear and
    all digits occur. It is the Inception Score (Salimans et al. 2016, arXiv:1606.03498), with MNIST's judge.
    """
    mean = probabilities.mean(dim=0)
    return (torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, mean)).sum(1).mean().exp().item()


def digit_shares(digits: Tensor) -> Tensor:
    """Return which share of the images each digit is, float64 (10,), of the digits (n,) that the judge reads."""
    return digits.bincount(minlength=DIGITS).double() / len(digits)


def digits_covered(shares: Tensor) -> int:
    """Return how many digits are covered: make up at least 1 % of the images, a tenth of a fair share."""
    return int((shares >= COVERED).sum())


def histogram_kl(shares: Tensor) -> float:
    """Return the Kullback-Leibler divergence of shares (10,) from equal shares.

    0 if all digits are equally frequent, ln 10 = 2.303 if there is only one.
    """
    return torch.xlogy(shares, shares * len(shares)).sum().item()


@dataclass(frozen=True)
class Neighborhoods:
    """Precision and recall, density and coverage of one cloud of features against another (`neighborhoods`)."""

    precision: float
    recall: float
    density: float
    coverage: float


def chunks(rows: Tensor, columns: int) -> Iterator[Tensor]:
    """Yield ``rows`` in parts so small that a table of distances to ``columns`` points stays within `CHUNK`."""
    yield from rows.split(max(1, CHUNK // columns))


def radii(points: Tensor, neighbors: int = NEIGHBORS) -> Tensor:
    """Return the distance (n,) from each of the points (n, f) to its k-th nearest neighbour, itself not counted.

    Raises:
        ValueError: ``neighbors`` is below 1, or there are not so many other points.
    """
    if not 1 <= neighbors < len(points):
        raise ValueError(f"{len(points)} images have no {neighbors} neighbours each; judge more images.")
    tables = (torch.cdist(part, points) for part in chunks(points, len(points)))
    # `topk` and not `kthvalue`: equal, and ten times as fast
    return torch.cat([table.topk(neighbors + 1, largest=False).values[:, -1] for table in tables])


def neighborhoods(
    real: Tensor, generated: Tensor, neighbors: int = NEIGHBORS, real_radii: Tensor | None = None
) -> Neighborhoods:
    """Compare two clouds of features (n, f), (m, f) by the balls that reach from each point to its k-th neighbour.

    - precision: share of generated points inside a ball of a real one; recall: share of real points inside a ball of
      a generated one (Kynkäänniemi et al. 2019, arXiv:1904.06991);
    - density: real balls around a generated point, on average, over k, so that it may exceed 1; coverage: share of
      real balls that hold a generated point (Naeem et al. 2020, arXiv:2002.09797).

    Args:
        real: features of real images.
        generated: features of the images to judge.
        neighbors: the k of the balls.
        real_radii: `radii` of ``real``, if they are known already.
    """
    real_radii = radii(real, neighbors) if real_radii is None else real_radii
    own_radii = radii(generated, neighbors)
    covered = torch.zeros(len(real), dtype=torch.bool)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    precise = dense = 0
    for part, own in zip(chunks(generated, len(real)), chunks(own_radii, len(real)), strict=True):
        distances = torch.cdist(part, real)
        in_real, in_own = distances <= real_radii, distances <= own[:, None]
        precise += int(in_real.any(dim=1).sum())
        dense += int(in_real.sum())
        covered |= in_real.any(dim=0)
        recalled |= in_own.any(dim=0)
    n, m = len(real), len(generated)
    return Neighborhoods(precise / m, int(recalled.sum()) / n, dense / (neighbors * m), int(covered.sum()) / n)


def nearest(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each of images (n, 784) the distance (n,) to the nearest of ``others``, and the latter's index (n,).

    The nearest is found by |b|^2 - 2ab, which is quick, then its distance is taken afresh, so that a copy has
    distance 0 and not a rounding error.
    """
    squares = torch.linalg.vector_norm(others, dim=1).square()  # no product of the size of `others` in memory
    scores = (torch.addmm(squares, part, others.T, alpha=-2) for part in chunks(images, len(others)))
    found = torch.cat([part.argmin(dim=1) for part in scores])
    return (images - others[found]).norm(dim=1), found


# ---- all of it at once -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What a `Ruler` says about images.

    Attributes:
        frechet: `frechet_distance` from the real images; lower is better, and it never quite reaches 0.
        score: `mnist_score`, 1 to 10.
        digits: `digits_covered`, 0 to 10.
        kl: `histogram_kl` from equal shares, 0 to 2.303; lower is better.
        precision: share of images that lie among real ones.
        recall: share of real images that lie among these.
        density: as precision, but counts how deep among them; about 1 for real images.
        coverage: share of real images with one of these nearby.
        nearness: nearest training image, median distance over that of real test images of the same digit; about 1
            for new images, near 0 for copies. nan, like ``copies``, if the ruler has no training images. At most 1,000
            of the images are looked at for either.
        copies: share of images less than half as far from a training image as is usual for real ones of the digit.
    """

    frechet: float
    score: float
    digits: int
    kl: float
    precision: float
    recall: float
    density: float
    coverage: float
    nearness: float
    copies: float


class Ruler:
    """Everything about the real images that judging needs, computed once; then `measure` any number of images.

    Args:
        judge: whose eyes are used; values of different judges do not compare.
        real: images (n, 784) to compare with, that neither the GAN nor the judge has learned from: the test images.
        memory: the training images, to look for copies of them; None leaves that out.

    Raises:
        ValueError: see `check_images`; fewer than 6 images.
    """

    def __init__(self, judge: Judge, real: Tensor, memory: Tensor | None = None) -> None:
        self.judge, self.memory = judge, memory
        self.features = judge.features(real)
        self.radii = radii(self.features)
        self.usual = None if memory is None else self._usual_distances(real, memory)

    def _usual_distances(self, real: Tensor, memory: Tensor) -> Tensor:
        """Return for each digit the median distance (10,) of real images from their nearest training images."""
        check_images(memory)
        some = spread(real).to(memory)
        distances, digits = nearest(some, memory)[0].cpu(), self.judge.digits(some)
        medians = [distances[digits == digit] for digit in range(DIGITS)]
        return torch.stack([(own if len(own) else distances).median() for own in medians])

    def measure(self, images: Tensor) -> Verdict:
        """Judge images (n, 784), float32 in 0..1, on any device.

        Raises:
            ValueError: see `check_images`; fewer than 6 images.
        """
        features = self.judge.features(images)
        probabilities = self.judge.probabilities(features)
        shares = digit_shares(probabilities.argmax(dim=1))
        near = neighborhoods(self.features, features, real_radii=self.radii)
        nearness = self.nearness(images)
        return Verdict(
            frechet=frechet_distance(self.features, features),
            score=mnist_score(probabilities),
            digits=digits_covered(shares),
            kl=histogram_kl(shares),
            precision=near.precision,
            recall=near.recall,
            density=near.density,
            coverage=near.coverage,
            nearness=nearness.median().item(),
            copies=torch.nan if self.memory is None else (nearness < COPY).double().mean().item(),
        )

    def nearness(self, images: Tensor) -> Tensor:
        """Return how far images are from their nearest training image; 1 is usual for a real image of that digit.

        At most 1,000 of the images are looked at, spread evenly: (n,) or (1000,); nan without training images.
        """
        some = spread(images)
        if self.memory is None or self.usual is None:
            return torch.full((len(some),), torch.nan)
        distances = nearest(some.to(self.memory), self.memory)[0].cpu()
        return distances / self.usual[self.judge.digits(some)]


def spread(images: Tensor, count: int = CHECKED_FOR_COPIES) -> Tensor:
    """Return ``count`` of the images, spread evenly over them, or all if there are fewer."""
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images)), dtype=torch.float64).round().long()
    return images[chosen.to(images.device)]


# ---- the command -----------------------------------------------------------------------------------------------


def main() -> None:
    """Train the judge, tell its test accuracy and write its file."""
    parser = argparse.ArgumentParser(prog="python -m gan_tutorial.judging", description="Train the judge again.")
    parser.add_argument("--data", default="auto", help="auto, folder, cache, download, sample or a folder's path")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the order of the images")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of 60,000 images each (default: {EPOCHS})")
    parser.add_argument("--output", type=Path, default=JUDGE_FILE, help="where to write it (default: the course's)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the same numbers on every run
    try:
        check_place(options.output)
        train_data, test_data = load_mnist(options.data)
        started = time.perf_counter()
        judge = train_judge(train_data, options.seed, options.epochs)
        seconds = time.perf_counter() - started
        judge.recipe["test_accuracy"] = f"{accuracy(judge, test_data.images, test_data.labels):.4f}"
        save_judge(judge, options.output)
    except (ValueError, DataError) as problem:
        parser.exit(1, f"{parser.prog}: error: {problem}\n")
    print(f"{judge.recipe['test_accuracy']} of {len(test_data):,} test images right, {seconds:.0f} s")
    written = hashlib.sha256(options.output.read_bytes()).hexdigest()
    print(f"SHA-256 of {options.output}, for JUDGE_SHA256 if it is to be the course's judge: {written}")


if __name__ == "__main__":
    main()
