"""Training and validation (notebook 03; used from 05 on)."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gan_tutorial.backprop import closed_form_step
from gan_tutorial.data import MnistDataset
from gan_tutorial.device import check_counts
from gan_tutorial.network import ANN
from gan_tutorial.plots import progress_bar, show_loss

PROFILE_VARIABLE = "GAN_TUTORIAL_PROFILE"
IMAGES_PER_EPOCH = {"full": 60_000, "quick": 1_500}  # an epoch in each profile
SHOW_EVERY = 500  # training steps after which the shown loss is brought up to date


class Epoch(NamedTuple):
    """What `train` tells of one epoch: its number (from 1), mean kept loss, and test accuracy in 0..1 if measured."""

    epoch: int
    loss: float
    accuracy: float | None


def of_profile(full: int, quick: int) -> int:
    """Return ``full``, or ``quick`` where ``GAN_TUTORIAL_PROFILE`` is "quick"; a ValueError if it names no profile."""
    profile = os.environ.get(PROFILE_VARIABLE, "full")
    if profile not in IMAGES_PER_EPOCH:
        raise ValueError(f"{PROFILE_VARIABLE} is {profile!r}; choose one of: {', '.join(IMAGES_PER_EPOCH)}.")
    return quick if profile == "quick" else full


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

    With all of MNIST, one image (784,) at a time, this is notebook 03's plain loop: the same losses to the last bit.
    An epoch is ``images_per_epoch`` images; after each the accuracy on ``test_data``, if given, is measured. ``fast``
    takes the steps of `backprop` where it knows the network: equal but for rounding. ``quiet`` shows no progress.
    Raises a ValueError for a count below 1, an empty data set, or network and data set on different devices.
    """
    check_counts(epochs=epochs, images_per_epoch=images_per_epoch, batch_size=batch_size)
    _check_data(network, dataset)
    step = (closed_form_step(network) if fast else None) or network.train_step
    history = []
    with progress_bar(epochs * images_per_epoch, quiet) as bar:
        for epoch in range(epochs):
            first_loss = len(network.progress)
            for chosen in batches(len(dataset), images_per_epoch, batch_size, start=epoch * images_per_epoch):
                step(dataset.images[chosen], dataset.targets[chosen])
                bar.update(1 if isinstance(chosen, int) else chosen.stop - chosen.start)
                if network.counter % SHOW_EVERY == 0:
                    show_loss(bar, network.progress)
            losses = network.progress[first_loss:]
            accuracy = None if test_data is None else evaluate(network, test_data)
            history.append(Epoch(epoch + 1, sum(losses) / max(len(losses), 1), accuracy))
        show_loss(bar, network.progress)
    return history


def _check_data(network: ANN, dataset: MnistDataset) -> None:
    """Raise a ValueError unless there are images, and on the network's device."""
    if len(dataset) == 0:
        raise ValueError("The data set is empty: there is nothing to train on.")
    if (device := next(network.parameters()).device) != dataset.images.device:
        where = f"The network is on {device}, the data set on {dataset.images.device}."
        raise ValueError(f"{where} Put both on one: network.to(device), and device=... when reading the data.")


def batches(size: int, images: int, batch_size: int, start: int = 0) -> Iterator[int | slice]:
    """Yield indices, or for larger batches slices, that show ``images`` of ``size`` images in order from ``start``."""
    shown = 0
    while shown < images:
        first = (start + shown) % size
        count = min(batch_size, images - shown, size - first)  # a batch ends where the file ends
        yield first if batch_size == 1 else slice(first, first + count)
        shown += count


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
