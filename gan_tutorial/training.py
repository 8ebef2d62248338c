"""Training, validation and the accuracy to expect (notebooks 03 to 09)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import DisplayHandle, display
from torch import Tensor

from gan_tutorial.backprop import closed_form_step
from gan_tutorial.data import MnistDataset
from gan_tutorial.network import ANN

BANDS_FILE = Path(__file__).parents[1] / "results" / "bands.csv"
PROFILE_VARIABLE = "GAN_TUTORIAL_PROFILE"
IMAGES_PER_EPOCH = {"full": 60_000, "quick": 1_500}  # an epoch in each profile
REPORT_EVERY = 10_000  # training steps between two printed lines
UNEXPECTED = """\
This is {points:.2f} percentage points {side} what runs with these settings ({settings}) gave.
The usual causes:
  1. The network was trained twice, or by cells run in another order. Restart the kernel and run all cells.
  2. It was not built right after set_seed, or its arguments are others. Look at the cell that builds it.
  3. The data are others, in another order or scaled otherwise. Look at the line that begins with "Data:",
     and run `gan-tutorial data --verify`.
If you changed something on purpose, this is your finding: keep it, and leave this check out."""


@dataclass(frozen=True)
class Epoch:
    """What `train` tells of one epoch: its number (from 1), mean kept loss, and test accuracy in 0..1 if measured."""

    epoch: int
    loss: float
    accuracy: float | None


def of_profile(full: int, quick: int) -> int:
    """Return the first number, or the second where ``GAN_TUTORIAL_PROFILE`` is ``quick``.

    Raises:
        ValueError: the variable names no profile.
    """
    profile = os.environ.get(PROFILE_VARIABLE, "full")
    choices = {"full": full, "quick": quick}
    if profile not in choices:
        raise ValueError(f"{PROFILE_VARIABLE} is {profile!r}; choose one of: {', '.join(choices)}.")
    return choices[profile]


def images_per_epoch_of_profile() -> int:
    """Return the images that make one epoch: 60,000, or 1,500 in the quick profile."""
    return of_profile(**IMAGES_PER_EPOCH)


def train(
    network: ANN,
    dataset: MnistDataset,
    epochs: int = 4,
    images_per_epoch: int = IMAGES_PER_EPOCH["full"],
    batch_size: int = 1,
    test_data: MnistDataset | None = None,
    fast: bool = False,
    quiet: bool = False,
) -> list[Epoch]:
    """Train ``network`` on ``dataset`` in file order, starting again at the top whenever the file ends.

    With all of MNIST, one image at a time, this is the plain loop of notebook 03: the same losses to the last bit.

    Args:
        network: on the same device as ``dataset``.
        dataset: what to learn from.
        epochs: how many times ``images_per_epoch`` images are shown.
        images_per_epoch: images that make one epoch, whatever the size of ``dataset``.
        batch_size: images in one training step; 1 shows image by image, as vectors (784,).
        test_data: if given, the accuracy on it is measured after every epoch.
        fast: take the steps of `gan_tutorial.backprop` where it knows the network: equal but for rounding, and quicker.
        quiet: show no progress; for cells that train many networks.

    Raises:
        ValueError: a count below 1, an empty data set, or network and data set on different devices.
    """
    check_training(network, dataset, epochs=epochs, images_per_epoch=images_per_epoch, batch_size=batch_size)
    step = (closed_form_step(network) if fast else None) or network.train_step
    line = ProgressLine(epochs * images_per_epoch, quiet)
    history = []
    for epoch in range(epochs):
        first_loss = len(network.progress)
        for chosen in batches(len(dataset), images_per_epoch, batch_size, start=epoch * images_per_epoch):
            step(dataset.images[chosen], dataset.targets[chosen])
            line.advance(batch_size, network.progress)
        losses = network.progress[first_loss:]
        accuracy = None if test_data is None else evaluate(network, test_data)
        history.append(Epoch(epoch + 1, sum(losses) / max(len(losses), 1), accuracy))
    line.finish(network.progress)
    return history


def check_training(network: ANN, dataset: MnistDataset, **counts: int) -> None:
    """Raise the errors that `train` documents."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more.")
    if len(dataset) == 0:
        raise ValueError("The data set is empty: there is nothing to train on.")
    network_device = next(network.parameters()).device
    if network_device != dataset.images.device:
        raise ValueError(
            f"The network is on {network_device}, the data set on {dataset.images.device}. "
            "Put both on one: network.to(device), and device=... when reading the data."
        )


def batches(size: int, images: int, batch_size: int, start: int = 0) -> Iterator[int | slice]:
    """Yield what to pick from a data set of ``size`` to show ``images`` images in order, beginning at ``start``.

    Single indices where ``batch_size`` is 1, else slices; a batch ends where the file ends.
    """
    shown = 0
    while shown < images:
        first = (start + shown) % size
        count = min(batch_size, images - shown, size - first)
        yield first if batch_size == 1 else slice(first, first + count)
        shown += count


class ProgressLine:
    """One line that is rewritten while a network trains, so that a stored notebook keeps only its last state.

    Outside a notebook it is printed every 10,000 steps instead.
    """

    def __init__(self, images: int, quiet: bool = False, label: str = "loss") -> None:
        self.images, self.shown, self.steps = images, 0, 0
        self.quiet, self.label = quiet, label
        in_notebook = hasattr(get_ipython(), "kernel")
        self.handle: DisplayHandle | None = DisplayHandle() if in_notebook and not quiet else None
        if self.handle:
            self.handle.display({"text/plain": "training starts"}, raw=True)

    def advance(self, batch_size: int, losses: list[float]) -> None:
        """Count one training step, and report now and then."""
        self.steps += 1
        self.shown = min(self.shown + batch_size, self.images)
        if self.handle and self.steps % 500 == 0:
            self.handle.update({"text/plain": self.text(losses)}, raw=True)
        elif not self.handle and not self.quiet and self.steps % REPORT_EVERY == 0:
            print(self.text(losses), flush=True)

    def finish(self, losses: list[float]) -> None:
        """Leave the last state behind."""
        if self.handle:
            self.handle.update({"text/plain": self.text(losses)}, raw=True)

    def text(self, losses: list[float]) -> str:
        """Return a bar, the images shown so far and the mean of the last kept losses."""
        bar = "█" * round(20 * self.shown / self.images)
        recent = losses[-100:]
        mean = f", {self.label} {sum(recent) / len(recent):.4f} (mean of the last {len(recent)} kept)" if recent else ""
        return f"{bar:░<20} {self.shown:,} of {self.images:,} images{mean}"


@torch.no_grad()
def predict(network: ANN, dataset: MnistDataset) -> Tensor:
    """Return the digit with the highest score for every image, int64 (n,) on the data set's device (notebook 03)."""
    was_training = network.training
    network.eval()
    predictions = network(dataset.images).argmax(dim=1)
    network.train(was_training)
    return predictions


def evaluate(network: ANN, dataset: MnistDataset) -> float:
    """Return the accuracy, the part of the images in 0..1 whose digit `predict` gets right (notebook 03)."""
    return int((predict(network, dataset) == dataset.labels).sum()) / len(dataset)


def expected_accuracy(
    variant: str, data_name: str, epochs: int, images_per_epoch: int, bands_file: Path = BANDS_FILE
) -> tuple[float, float] | None:
    """Return the recorded band (low, high) of the accuracy for these settings, or None if none is recorded."""
    bands = pd.read_csv(bands_file)
    settings = {"variant": variant, "data": data_name, "epochs": epochs, "images_per_epoch": images_per_epoch}
    fitting = bands[(bands[list(settings)] == pd.Series(settings)).all(axis=1)]
    return (fitting["low"].iloc[0], fitting["high"].iloc[0]) if len(fitting) else None


def report_accuracy(
    variant: str,
    accuracy: float,
    test_data: MnistDataset,
    epochs: int,
    images_per_epoch: int,
    bands_file: Path = BANDS_FILE,
) -> None:
    """Show the accuracy beside the band that ``results/bands.csv`` records for these settings.

    Outside the band, what was expected, the usual causes and what to look at are shown first.

    Raises:
        AssertionError: the accuracy lies outside the band.
    """
    band = expected_accuracy(variant, test_data.name, epochs, images_per_epoch, bands_file)
    text = f"{variant}: {accuracy:.2%} of {len(test_data):,} test images right"
    note = f"expected {band[0]:.1%} to {band[1]:.1%}" if band else "no band is recorded for these settings"
    metadata = {"gan_tutorial": {"variant": variant, "accuracy": accuracy, "expected": band}}
    display({"text/plain": f"{text} ({note})"}, metadata=metadata, raw=True)
    if band and not band[0] <= accuracy <= band[1]:
        outside = max(band[0] - accuracy, accuracy - band[1])
        settings = f"{epochs} epochs of {images_per_epoch:,} images, data {test_data.name}"
        side = "below" if accuracy < band[0] else "above"
        print(UNEXPECTED.format(points=100 * outside, side=side, settings=settings))
        raise AssertionError(f"{text}, but {note} on {test_data.name}. See the hints above.")
