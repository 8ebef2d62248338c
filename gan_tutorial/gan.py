"""Generative adversarial networks: one step of each player, and the game as a whole (notebooks 20 to 27)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gan_tutorial.device import check_counts
from gan_tutorial.plots import progress_bar, show_loss
from gan_tutorial.training import SHOW_EVERY

# The small first beta forgets quickly: yesterday's opponent is no guide (Radford et al. 2015, arXiv:1511.06434).
adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999), fused=True)

# What PyTorch says when generated data are used at the wrong time, and what to do (notebook 20).
STALE = {
    "second time": "These generated data have served for a generator's step before. Generate anew in each round.",
    "inplace operation": "A network has learned since these data went through it. Generate anew after each step of "
    "the generator.",
}


@dataclass(frozen=True)
class Round:
    """One round of the game: its number (from 1), both losses, and the mean scores before either player learned."""

    number: int
    discriminator_loss: float  # at a draw 2 ln 2, for real and generated data together; in a relativistic game ln 2
    generator_loss: float  # at a draw ln 2
    real_score: float  # D(x), as a probability with a loss on logits; alone it means nothing in a relativistic game
    generated_score: float  # D(G(z))


def draw_noise(count: int, width: int, source: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Return normal seeds for a generator, float32 (count, width).

    They are drawn on the CPU and then moved, so that every device plays the same game.
    """
    return torch.randn(count, width, generator=source).to(device)


def attach(values: Tensor, targets: Tensor | None) -> Tensor:
    """Return ``values`` (n, width) with the one-hot labels (n, 10) beside them, if there are any (notebook 26)."""
    return values if targets is None else torch.cat([values, targets], dim=1)


def gradient_penalty(scores: Tensor, data: Tensor) -> Tensor:
    """Return the mean squared length of the scores' gradient by the data (notebook 21; Mescheder et al. 2018).

    On real data it is the penalty R1, on generated data R2.

    Args:
        scores: (n, 1), computed from ``data``.
        data: (n, width), with ``requires_grad``.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), data, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def learn(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step of gradient descent; only the optimizer's own parameters get gradients.

    Raises:
        ValueError: ``loss`` does not depend on them, or its graph is used up or out of date.
    """
    optimizer.zero_grad()
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    try:
        loss.backward(inputs=parameters)
    except RuntimeError as problem:
        for sign, advice in STALE.items():
            if sign in str(problem):
                raise ValueError(f"{advice} (PyTorch says: {str(problem).splitlines()[0]})") from problem
        raise
    if all(p.grad is None for p in parameters):
        raise ValueError(
            "The loss does not depend on any parameter of this optimizer. Give each step the optimizer of its own "
            "player, and build it anew whenever the network is built anew."
        )
    optimizer.step()


def discriminator_step(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: nn.Module,
    real: Tensor,
    generated: Tensor,
    targets: Tensor | None = None,
    penalty: float = 0.0,
    generated_penalty: float = 0.0,
    relativistic: bool = False,
) -> tuple[float, Tensor, Tensor]:
    """Teach the discriminator to answer 1 to real data and 0 to generated data (notebook 20).

    Args:
        discriminator: maps (n, width) to scores (n, 1).
        optimizer: of the discriminator's parameters.
        loss_function: of (scores, answers), for example ``nn.BCEWithLogitsLoss()`` or ``nn.MSELoss()``.
        real: (n, width).
        generated: (n, width); it is detached here, so the generator learns nothing.
        targets: one-hot labels (n, 10) of both, for a conditional game.
        penalty: weight of the gradient penalty R1, on the real data: half of it times `gradient_penalty` is added to
            the loss; 0 for none.
        generated_penalty: the same of R2, on the generated data.
        relativistic: ask for "more real than the generated one beside it" instead (notebook 27).

    Returns:
        The loss without the penalties, and the scores of the real and of the generated data, (n, 1) each.

    Raises:
        ValueError: real and generated data of different shapes or swapped, scores that are not (n, 1), or an
            optimizer of something else.
    """
    check_data(real, generated)
    real = real.detach().requires_grad_(penalty > 0)
    generated = generated.detach().requires_grad_(generated_penalty > 0)
    real_scores, generated_scores = (discriminator(attach(data, targets)) for data in (real, generated))
    check_scores(real_scores, len(real))
    if relativistic:
        loss = loss_function(real_scores - generated_scores, torch.ones_like(real_scores))
    else:
        loss = loss_function(real_scores, torch.ones_like(real_scores))
        loss = loss + loss_function(generated_scores, torch.zeros_like(generated_scores))
    total = loss
    if penalty:
        total = total + penalty / 2 * gradient_penalty(real_scores, real)
    if generated_penalty:
        total = total + generated_penalty / 2 * gradient_penalty(generated_scores, generated)
    learn(optimizer, total)
    return loss.item(), real_scores.detach(), generated_scores.detach()


def generator_step(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: nn.Module,
    generated: Tensor,
    targets: Tensor | None = None,
    real: Tensor | None = None,
) -> float:
    """Teach the generator to make data to which the discriminator answers 1, and return its loss (notebook 20).

    Args:
        discriminator: as it is after its own step; it is not changed.
        optimizer: of the generator's parameters.
        loss_function: as for `discriminator_step`.
        generated: (n, width), straight from the generator as it is now: not detached, not used before.
        targets: one-hot labels (n, 10), for a conditional game.
        real: (n, width), for a relativistic game: the generated data shall look more real than these (notebook 27).

    Raises:
        ValueError: ``generated`` carries no gradient or an old one, ``real`` of another shape or swapped with it,
            scores that are not (n, 1), or an optimizer of something else.
    """
    if not generated.requires_grad:
        raise ValueError(
            "The generated data are detached from the generator. Give them as the generator returned them."
        )
    first = optimizer.param_groups[0]["params"][0]
    if any(first is parameter for parameter in discriminator.parameters()):
        raise ValueError("This is the discriminator's optimizer. The generator's step needs the generator's.")
    scores = discriminator(attach(generated, targets))
    check_scores(scores, len(generated))
    if real is not None:
        check_data(real, generated)
        scores = scores - discriminator(attach(real, targets)).detach()
    loss = loss_function(scores, torch.ones_like(scores))
    learn(optimizer, loss)
    return loss.item()


def check_data(real: Tensor, generated: Tensor) -> None:
    """Raise a ValueError unless both are of one shape and only the generated data may come from a network."""
    if real.shape != generated.shape:
        raise ValueError(
            f"Real data are {tuple(real.shape)}, generated data {tuple(generated.shape)}: give equal shapes."
        )
    if real.requires_grad:
        raise ValueError(
            "The real data carry a gradient, as if a network had made them. Are real and generated swapped?"
        )


def check_scores(scores: Tensor, count: int) -> None:
    """Raise a ValueError unless ``scores`` is (count, 1): broadcasting would hide the mistake."""
    if scores.shape != (count, 1):
        raise ValueError(
            f"The discriminator's scores are {tuple(scores.shape)}, expected ({count}, 1). "
            "Let it end in nn.Linear(..., 1), and do not squeeze the result."
        )


def check_players(generator: nn.Module, discriminator: nn.Module, images: Tensor, loss_function: nn.Module) -> None:
    """Find the usual mistakes in two networks before they play.

    Raises:
        ValueError: tells the mistake and the cure.
    """
    if len(images) == 0:
        raise ValueError("There are no images: nothing to learn from.")
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not network.training:
            raise ValueError(f"The {name} is in evaluation mode. Call {name}.train() before training goes on.")
        device = next(network.parameters()).device
        if device != images.device:
            raise ValueError(f"The {name} is on {device}, the images on {images.device}. Put both on one device.")
    end = last_layer(generator)
    if isinstance(loss_function, nn.BCEWithLogitsLoss) and isinstance(last_layer(discriminator), nn.Sigmoid):
        raise ValueError("BCEWithLogitsLoss contains the sigmoid. Take nn.Sigmoid() off the end of the discriminator.")
    if isinstance(end, nn.Tanh) and images.min() >= 0:
        raise ValueError("The generator ends in Tanh, -1 to 1, but the images are 0 to 1. Let it end in nn.Sigmoid().")
    if isinstance(end, nn.Sigmoid) and images.min() < 0:
        raise ValueError(
            "The generator ends in Sigmoid, 0 to 1, but some real values are negative: it cannot make them."
        )


def check_targets(targets: Tensor, count: int) -> None:
    """Raise a ValueError unless ``targets`` are ``count`` one-hot rows."""
    advice = "nn.functional.one_hot(labels, 10).float() makes them of labels."
    if targets.ndim != 2 or len(targets) != count:
        raise ValueError(f"The targets are {tuple(targets.shape)}, expected a row for each of {count} images: {advice}")
    ones, zeros = targets == 1, targets == 0
    if not ((ones | zeros).all() and (ones.sum(dim=1) == 1).all()):
        raise ValueError(f"The targets are not one-hot, in each row a single 1 and else zeros: {advice}")


def draw_targets(count: int, digits: int, source: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Return random one-hot labels (count, digits), float32, drawn on the CPU (notebook 26).

    The upper bound of `torch.randint` is never drawn: ``randint(0, 9)`` would leave out the 9.
    """
    return nn.functional.one_hot(torch.randint(0, digits, (count,), generator=source), digits).float().to(device)


def last_layer(network: nn.Module) -> nn.Module:
    """Return the last layer that has no layers inside and does more than reshape."""
    layers = [layer for layer in network.modules() if not list(layer.children())]
    reshaping = nn.Flatten, nn.Unflatten, nn.Identity
    return next((layer for layer in reversed(layers) if not isinstance(layer, reshaping)), layers[-1])


def generate(generator: nn.Module, noise: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return what ``generator`` makes of seeds (n, width), and of one-hot labels (n, 10) if there are any.

    Raises:
        ValueError: the generator fails on seeds of this width.
    """
    seeds = attach(noise, targets)
    try:
        return generator(seeds)
    except RuntimeError as problem:
        raise ValueError(
            f"The generator fails on seeds of shape {tuple(seeds.shape)}. Is that the width of its first layer? "
            f"PyTorch says: {problem}"
        ) from problem


def shuffled(size: int, batch_size: int, order: torch.Generator) -> Iterator[Tensor]:
    """Yield, without end, what to pick from a data set of ``size``: each pass over it in a new random order."""
    while True:
        yield from torch.randperm(size, generator=order).split(batch_size)


def rate_factor(played: int, rounds: float, calm: float) -> float:
    """Return the factor of the learning rates after ``played`` rounds: 1, and in the last share ``calm`` down to 0."""
    return min(1.0, max(0.0, 1 - played / rounds) / calm) if calm else 1.0


@dataclass(frozen=True)
class Players:
    """Both networks with their optimizers, and the rules of their game."""

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    loss_function: nn.Module
    penalty: float
    generated_penalty: float = 0.0
    relativistic: bool = False
    schedulers: tuple[torch.optim.lr_scheduler.LambdaLR, ...] = ()  # moved on by one after each round

    def play(self, number: int, real: Tensor, noise: Tensor, targets: Tensor | None = None) -> Round:
        """Play one round with real data (n, width), seeds (n, noise_width) and, in a conditional game, their labels."""
        generated, loss = generate(self.generator, noise, targets), self.loss_function
        rules = self.penalty, self.generated_penalty, self.relativistic
        discriminator_loss, *scores = discriminator_step(
            self.discriminator, self.discriminator_optimizer, loss, real, generated, targets, *rules
        )
        beside = real if self.relativistic else None
        generator_loss = generator_step(self.discriminator, self.generator_optimizer, loss, generated, targets, beside)
        if isinstance(self.loss_function, nn.BCEWithLogitsLoss):
            scores = [torch.sigmoid(score) for score in scores]
        for scheduler in self.schedulers:
            scheduler.step()
        return Round(number, discriminator_loss, generator_loss, *(score.mean().item() for score in scores))


def deal(
    stream: Iterator[Tensor],
    noise: torch.Generator,
    images: Tensor,
    targets: Tensor | None,
    count: int,
    noise_width: int,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield real images, seeds and labels (if any) for each round of an epoch of ``count`` images."""
    shown = 0
    while shown < count:
        chosen = next(stream)[: count - shown].to(images.device)
        shown += len(chosen)
        seeds = draw_noise(len(chosen), noise_width, noise, images.device)
        yield images[chosen], seeds, None if targets is None else targets[chosen]


def train_gan(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    epochs: int,
    images_per_epoch: int = 60_000,
    batch_size: int = 64,
    noise_width: int = 100,
    targets: Tensor | None = None,
    loss_function: Callable[[], nn.Module] = nn.BCEWithLogitsLoss,
    generator_optimizer: Callable[..., torch.optim.Optimizer] = adam,
    discriminator_optimizer: Callable[..., torch.optim.Optimizer] = adam,
    penalty: float = 0.0,
    generated_penalty: float = 0.0,
    relativistic: bool = False,
    calm: float = 0.0,
    seed: int = 0,
    after_round: Callable[[Round], object] | None = None,
    after_epoch: Callable[[int], object] | None = None,
    quiet: bool = False,
) -> list[Round]:
    """Let both networks play, a batch of real images in each round, and return the history of all rounds.

    Real images come in a new random order in each pass. Their order and the noise have random numbers of their own,
    so that two networks trained with the same ``seed`` see the same of both (notebook 24).

    Args:
        generator: maps seeds (n, noise_width) to images (n, width); with ``targets`` it gets (n, noise_width + 10).
        discriminator: maps images (n, width), or (n, width + 10), to scores (n, 1).
        images: (count, width), on the device of both networks.
        epochs: how many times ``images_per_epoch`` images are shown.
        images_per_epoch: images that make one epoch, whatever the size of ``images``.
        batch_size: real images in a round; as many are generated.
        noise_width: numbers in a seed.
        targets: one-hot labels (count, 10) of the images; both networks are told the same ones.
        loss_function: its class; for logits, so the discriminator ends in a linear layer.
        generator_optimizer: a class or ``partial`` that is called with the parameters.
        discriminator_optimizer: the same for the discriminator.
        penalty: weight of R1, see `discriminator_step`.
        generated_penalty: weight of R2.
        relativistic: compare each real image with a generated one (notebook 27; Jolicoeur-Martineau 2018).
        calm: over this share of the rounds, at the end, both learning rates fall in a straight line to 0 (notebook 26).
        seed: for the order of the images and the noise; set the networks' own by `set_seed` before building them.
        after_round: called with each `Round`, right after it, for example to average weights (notebook 27).
        after_epoch: called with the number of the epoch, from 1, after each.
        quiet: show no progress.

    Raises:
        ValueError: no images, or one of the usual mistakes; tells which and the cure.
    """
    check_counts(epochs=epochs, images_per_epoch=images_per_epoch, batch_size=batch_size, noise_width=noise_width)
    if targets is not None:
        check_targets(targets, len(images))
    if not 0 <= calm <= 1:
        raise ValueError(f"calm is {calm}; it is a share of the rounds, 0 to 1.")
    loss = loss_function()
    optimizers = generator_optimizer(generator.parameters()), discriminator_optimizer(discriminator.parameters())
    falling = partial(rate_factor, rounds=epochs * images_per_epoch / batch_size, calm=calm)
    schedulers = tuple(torch.optim.lr_scheduler.LambdaLR(optimizer, falling) for optimizer in optimizers)
    penalties = penalty, generated_penalty
    players = Players(generator, discriminator, *optimizers, loss, *penalties, relativistic, schedulers)
    stream = shuffled(len(images), batch_size, torch.Generator().manual_seed(seed))
    noise = torch.Generator().manual_seed(seed + 1)
    history: list[Round] = []
    losses: list[float] = []
    with progress_bar(epochs * images_per_epoch, quiet) as bar:
        for epoch in range(epochs):
            check_players(generator, discriminator, images, loss)  # `after_epoch` may have left one in evaluation mode
            for real, seeds, labels in deal(stream, noise, images, targets, images_per_epoch, noise_width):
                history.append(players.play(len(history) + 1, real, seeds, labels))
                losses.append(history[-1].discriminator_loss)
                bar.update(len(real))
                if len(history) % SHOW_EVERY == 0:
                    show_loss(bar, losses, "discriminator loss")
                if after_round:
                    after_round(history[-1])
            if after_epoch:
                after_epoch(epoch + 1)
        show_loss(bar, losses, "discriminator loss")
    return history
