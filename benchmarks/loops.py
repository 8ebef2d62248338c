"""The training loops that the benchmarks compare `gan_tutorial` with: without it, or with a framework.

Every function takes a network or a data set once and returns a function that trains on ``images`` images.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.by_hand import Step
from gan_tutorial.data import MnistDataset
from gan_tutorial.network import ANN
from gan_tutorial.training import batches, train

Run = Callable[[], object]
BATCH = 64


class PandasDigits(Dataset):
    """MNIST as in the original post: one table, whose row is made into tensors whenever it is asked for."""

    def __init__(self, file: Path) -> None:
        self.table = pd.read_csv(file, header=None)
        if blocks(self.table) > 1:  # 785 one-column blocks make looking up a row 100 times slower: compare fairly
            self.table = self.table.copy()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        """Return (label, image values, target) of one image."""
        label = self.table.iloc[index, 0]
        target = torch.zeros(10)
        target[label] = 1.0
        image_values = torch.FloatTensor(self.table.iloc[index, 1:].values) / 255.0
        return label, image_values, target


def blocks(table: pd.DataFrame) -> int:
    """Return in how many pieces pandas holds a table; there is no public way to ask."""
    return len(table._mgr.blocks)


def post_loop(digits: PandasDigits, images: int) -> Run:
    """The loop of the original post: a row of the table, then the plain step."""
    network = ANN()

    def run() -> None:
        with warnings.catch_warnings(action="ignore"):  # pandas 3 hands out arrays that torch would rather copy
            for index in range(images):
                _, image_values, target = digits[index]
                network.train_step(image_values, target)

    return run


def eager_loop(dataset: MnistDataset, images: int) -> Run:
    """The shortest loop that plain PyTorch allows, over tensors that are ready."""
    model = nn.Sequential(nn.Linear(784, 200), nn.Sigmoid(), nn.Linear(200, 10), nn.Sigmoid())
    loss_function = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def run() -> None:
        for image, target in zip(dataset.images[:images], dataset.targets[:images], strict=True):
            optimizer.zero_grad()
            loss_function(model(image), target).backward()
            optimizer.step()

    return run


def step_loop(step: Step, dataset: MnistDataset, images: int) -> Run:
    """A step, image by image, over tensors that are ready."""

    def run() -> None:
        for image, target in zip(dataset.images[:images], dataset.targets[:images], strict=True):
            step(image, target)

    return run


def notebook_loop(dataset: MnistDataset, images: int) -> Run:
    """The loop of notebook 03."""
    network = ANN()

    def run() -> None:
        for i in batches(len(dataset), images, batch_size=1):
            network.train_step(dataset.images[i], dataset.targets[i])

    return run


# ---- batches ---------------------------------------------------------------------------------------------------


def tensors(dataset: MnistDataset, images: int) -> TensorDataset:
    """Return what the frameworks like best: ready tensors, as pairs."""
    return TensorDataset(dataset.images[:images], dataset.targets[:images])


def course_batches(dataset: MnistDataset, images: int, fast: bool) -> Run:
    """Slices of the ready tensors, with the closed-form or the plain step."""
    return lambda: train(ANN(), dataset, 1, images, batch_size=BATCH, fast=fast, quiet=True)


def loader_loop(dataset: MnistDataset, images: int) -> Run:
    """The usual loop of PyTorch: a DataLoader makes the batches."""
    network, loader = ANN(), DataLoader(tensors(dataset, images), batch_size=BATCH)

    def run() -> None:
        for batch, targets in loader:
            network.optimizer.zero_grad()
            network.loss_function(network(batch), targets).backward()
            network.optimizer.step()

    return run


def lightning_loop(dataset: MnistDataset, images: int) -> Run:
    """Lightning without what can be switched off: no logger, bar, checkpoints or summary."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = ANN()

        def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
            return self.network.loss_function(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.network.optimizer

    module, loader = Module(), DataLoader(tensors(dataset, images), batch_size=BATCH)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)

    def run() -> None:
        with warnings.catch_warnings(action="ignore"):  # its advice to use more worker processes
            lightning.Trainer(accelerator="cpu", max_epochs=1, **off).fit(module, loader)

    return run


def skorch_loop(dataset: MnistDataset, images: int) -> Run:
    """The network in skorch, without validation or printed lines."""
    from skorch import NeuralNet

    network = ANN()
    net = NeuralNet(
        network.model,
        criterion=nn.MSELoss,
        optimizer=torch.optim.SGD,
        lr=0.01,
        batch_size=BATCH,
        max_epochs=1,
        train_split=None,
        verbose=0,
    ).initialize()
    pairs = tensors(dataset, images)
    return lambda: net.partial_fit(pairs, y=None)


def fastai_loop(dataset: MnistDataset, images: int) -> Run:
    """The network in fastai, without bars or printed lines; it insists on validating, so it gets one batch."""
    from fastai.basics import DataLoaders, Learner
    from fastai.callback.progress import ProgressCallback  # the bar, to be switched off

    pairs = tensors(dataset, images)
    loaders = DataLoaders(DataLoader(pairs, batch_size=BATCH), DataLoader(tensors(dataset, BATCH), batch_size=BATCH))
    network = ANN()
    learner = Learner(loaders, network.model, loss_func=nn.MSELoss(), opt_func=fastai_sgd)

    def run() -> None:
        with learner.removed_cbs(learner.cbs.filter(lambda c: isinstance(c, ProgressCallback))), learner.no_logging():
            learner.fit(1, lr=0.01)

    return run


def fastai_sgd(parameters: list, lr: float) -> object:
    """Return fastai's optimizer with plain SGD."""
    from fastai.optimizer import SGD

    return SGD(parameters, lr=lr)
