"""What the GANs of the course came to: said in a notebook, recorded over seeds, read again (notebooks 23 to 27)."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from gan_tutorial.data import DIGITS, MnistDataset
from gan_tutorial.gan import draw_noise, generate
from gan_tutorial.judging import Verdict, check_place
from gan_tutorial.plots import show_marked
from gan_tutorial.records import CONDITIONS, RESULTS, Table, add_rows, conditions, read_table

VERDICTS_FILE = RESULTS / "gans.csv"
SETTINGS = ["gan", "data", "images_shown"]
KEY = [*SETTINGS, "seed"]  # what makes a training the same training
METRICS = [field.name for field in fields(Verdict)]
GANS = Table([*KEY, "generator", "discriminator", "seconds", *METRICS, "label_accuracy", *CONDITIONS], KEY)
IMAGES = 10_000  # images that a GAN is judged by
FIXED_NOISE = 2_147_483_647  # seed of the noise that every GAN is judged with; no training uses it
# Twice the farthest recorded Frechet distance is still usual: GANs scatter, and rounding differs by machine.
MARGIN = 1.0
FEWEST_SEEDS = 3
UNEXPECTED = """\
The Fréchet distance is {frechet:.1f}; from recorded trainings with these settings at most {limit:.1f} was expected.
The usual causes:
  1. A network was trained twice, or by cells run in another order. Restart the kernel and run all cells.
  2. A network was not built right after set_seed, or its layers, rates or loss are others.
  3. An unlucky seed: GANs scatter more than classifiers. Try another one.
If you changed something on purpose, this is your finding: keep it, and leave this check out."""


@torch.no_grad()
def make_images(generator: nn.Module, noise_width: int, labels: Tensor | None = None, count: int = IMAGES) -> Tensor:
    """Return images (count, 784) that ``generator`` makes of the noise that all GANs are judged with.

    The generator is in evaluation mode meanwhile (batch normalization and dropout need it).

    Args:
        generator: maps seeds (n, noise_width), or with ``labels`` (n, noise_width + 10), to images.
        noise_width: numbers in a seed.
        labels: the digits (count,) to ask a conditional generator for (notebook 26).
        count: how many.

    Raises:
        ValueError: not ``count`` labels, or a generator that fails on seeds of this width.
    """
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} images: give one for each, or another count.")
    device = next(generator.parameters()).device
    seeds = draw_noise(count, noise_width, torch.Generator().manual_seed(FIXED_NOISE), device)
    if labels is not None:
        seeds = torch.cat([seeds, nn.functional.one_hot(labels.to(device), DIGITS).float()], dim=1)
    was_training = generator.training
    generator.eval()
    try:
        return torch.cat([generate(generator, part).flatten(1) for part in seeds.split(1_000)])
    finally:
        generator.train(was_training)


@dataclass(frozen=True)
class GanRun:
    """One trained GAN: what made it, and what the ruler says.

    Attributes:
        gan: its name in the course.
        generator: after training.
        discriminator: after training.
        verdict: of `make_images`, by a ruler of the course's judge and the test images.
        judged: how many images it was given.
        train_data: what it has learned from.
        images_shown: real images it was trained with, repetitions counted.
        seed: of weights, order and noise.
        seconds: how long the training took.
        label_accuracy: share of the images in which the judge reads the digit that was asked for; None without labels.
    """

    gan: str
    generator: nn.Module
    discriminator: nn.Module
    verdict: Verdict
    judged: int
    train_data: MnistDataset
    images_shown: int
    seed: int
    seconds: float
    label_accuracy: float | None = None

    def row(self) -> dict[str, object]:
        """Return the run as a row of ``gan_tutorial/results/gans.csv``, with the conditions it was made under."""
        values = {name: round(value, 5) for name, value in asdict(self.verdict).items()}
        return {
            "gan": self.gan,
            "data": self.train_data.name,
            "images_shown": self.images_shown,
            "seed": self.seed,
            "generator": parameters(self.generator),
            "discriminator": parameters(self.discriminator),
            "seconds": round(self.seconds, 1),
            **values,
            "label_accuracy": self.label_accuracy,
            **conditions(self.train_data),
        }


def parameters(network: nn.Module) -> int:
    """Return how many learnable numbers a network has."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def report_gan(run: GanRun, record: bool = False, file: Path = VERDICTS_FILE) -> None:
    """Show what the ruler says of a trained GAN, beside what ``gans.csv`` records for these settings.

    Too far from the real images, what was expected, the usual causes and what to look at are shown first.

    Args:
        run: the trained GAN.
        record: put the run into ``file``, in the place of an earlier one with the same settings and seed.
        file: the recorded runs.

    Raises:
        AssertionError: the Frechet distance is larger than `expected_frechet`.
        ValueError: it shall be recorded, but is not of 10,000 images; see `read_rows`. Nothing is recorded then.
    """
    if record and run.judged != IMAGES:
        raise ValueError(
            f"{run.gan}: {run.judged:,} images were judged. Only verdicts of {IMAGES:,} are recorded: distances "
            f"compare at equal counts alone. Leave `judged` at {IMAGES:,}, or `record` at False."
        )
    if record:
        check_place(file)
    known = file.exists() or not record  # where a record begins, nothing is expected yet
    comparable = run.judged == IMAGES and known
    limit = expected_frechet(run.gan, run.train_data.name, run.images_shown, file) if comparable else None
    if record:  # only now: a run must not widen the limit that it is held to
        add_rows(file, pd.DataFrame([run.row()]), GANS)
    verdict = run.verdict
    text = f"{run.gan}: Fréchet distance {verdict.frechet:.1f}, score {verdict.score:.2f}, {verdict.digits} digits"
    if run.label_accuracy is not None:
        text += f", {run.label_accuracy:.1%} as asked"
    note = (
        f"expected: at most {limit:.0f}"
        if limit
        else f"fewer than {FEWEST_SEEDS} seeds are recorded for these settings"
    )
    mark = {"gan": run.gan, "frechet": verdict.frechet, "limit": limit}
    show_marked({"text/plain": f"{text} ({note})"}, mark)
    if limit and not verdict.frechet <= limit:
        print(UNEXPECTED.format(frechet=verdict.frechet, limit=limit))
        raise AssertionError(f"{text}, but {note}. See the hints above.")


def expected_frechet(gan: str, data: str, images_shown: int, file: Path = VERDICTS_FILE) -> float | None:
    """Return the largest Frechet distance that is usual for these settings, or None if fewer than 3 seeds are recorded.

    The rule: the largest of the recorded seeds and `MARGIN` more. There is no lower limit: nearer is better.

    Raises:
        ValueError: see `read_rows`.
    """
    runs = read_rows(file)
    fitting = runs[(runs[SETTINGS] == pd.Series([gan, data, images_shown], SETTINGS)).all(axis=1)]
    return float(fitting["frechet"].max() * (1 + MARGIN)) if len(fitting) >= FEWEST_SEEDS else None


def read_verdicts(file: Path = VERDICTS_FILE, data: str = "MNIST") -> pd.DataFrame:
    """Return the recorded runs of all GANs on one data set, a row for each setting and seed (notebook 27).

    Raises:
        ValueError: none is recorded; see `read_rows`.
    """
    runs = read_rows(file)
    chosen = runs[runs["data"] == data]
    if chosen.empty:
        raise ValueError(f"No GAN trained on {data!r} is recorded in {file.name}.")
    return chosen.reset_index(drop=True)


def read_rows(file: Path) -> pd.DataFrame:
    """Return all rows of ``file``; a ValueError as for `read_table` if there is no such table."""
    return read_table(file, GANS)
