"""The artificial neural network of the course: one hidden layer, with every choice passed in (notebook 03)."""

from collections.abc import Callable
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from gan_tutorial import plots
from gan_tutorial.data import DIGITS, PIXELS

_HIDDEN = 200
KEEP_EVERY = 10  # `progress` keeps the loss of every 10th training step


class ANN(nn.Module):
    """A 784-200-10 network that carries its own loss function and optimizer; the defaults are notebook 03's baseline.

    Every choice is a class or a ``functools.partial`` of one, never a built object, so that an improvement is one
    visible argument: ``ANN(loss_function=nn.BCELoss)`` (notebook 05), ``ANN(optimizer=torch.optim.Adam)`` (07).

    Args:
        loss_function: called without arguments; the result maps (scores, targets) to one number.
        activation: called without arguments, follows the hidden layer.
        output_activation: called without arguments, follows the last layer.
        normalization: called with the hidden width (200), stands after ``activation``; None for none (notebook 08).
        optimizer: called with the parameters.

    Attributes:
        model: the layers in order, an `nn.Sequential`.
        counter: training steps taken so far.
        progress: the loss of every 10th training step, as floats.
    """

    def __init__(
        self,
        loss_function: Callable[[], nn.Module] = nn.MSELoss,
        activation: Callable[[], nn.Module] = nn.Sigmoid,
        output_activation: Callable[[], nn.Module] = nn.Sigmoid,
        normalization: Callable[[int], nn.Module] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = partial(torch.optim.SGD, lr=0.01),
    ) -> None:
        super().__init__()
        layers = [nn.Linear(PIXELS, _HIDDEN), activation()]
        if normalization is not None:
            layers.append(normalization(_HIDDEN))
        layers += [nn.Linear(_HIDDEN, DIGITS), output_activation()]
        self.model = nn.Sequential(*layers)
        self.loss_function = loss_function()
        self.optimizer = optimizer(self.model.parameters())
        self.counter = 0
        self.progress: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        """Map images (784,) or (n, 784), float32 in 0..1, to scores (10,) or (n, 10), one a digit."""
        return self.model(images)

    def train_step(self, images: Tensor, targets: Tensor) -> None:
        """Take one step of gradient descent on one image (784,) or a batch (n, 784) and its one-hot targets.

        The original post calls this ``train``, which hides `nn.Module.train`: see notebook 03.
        """
        loss = self.loss_function(self(images), targets)
        self.counter += 1
        if self.counter % KEEP_EVERY == 0:
            self.progress.append(loss.item())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def plot_progress(self) -> Figure:
        """Draw the kept losses against training steps: faint dots and their running mean (notebook 03)."""
        return plots.plot_progress({"loss": self.progress}, every=KEEP_EVERY)
