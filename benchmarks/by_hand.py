"""The opponents of the benchmarks: the steps and loops a reader would write without `gan_tutorial`.

Each weight is moved once and in place. These are as quick as we could write them in plain PyTorch, not taught anywhere.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gan_tutorial.network import ANN

Step = Callable[[Tensor, Tensor], None]
RATE, SLOPE, EPS = 0.01, 0.02, 1e-5  # of SGD, of the leaky ReLU, of LayerNorm: those of the course


def rank_one_step(network: ANN, variant: str) -> Step:
    """Return a step (image, target) that trains the weights of ``network``, written out for one variant."""
    weights = [parameter.detach() for parameter in network.parameters()]
    backward = BACKWARD[variant]
    update = adam_update(weights) if "betas" in network.optimizer.defaults else sgd_update(weights)
    return torch.no_grad()(lambda image, target: update(backward(weights, image, target)))


def sgd_update(weights: list[Tensor]) -> Callable[[Sequence[tuple[Tensor, ...]]], None]:
    """Return the update of plain SGD: rank one for a weight matrix, in place for a bias."""

    def update(factors: Sequence[tuple[Tensor, ...]]) -> None:
        for weight, factor in zip(weights, factors, strict=True):
            if len(factor) == 2:
                weight.addr_(factor[0], factor[1], alpha=-RATE)
            else:
                weight.sub_(factor[0], alpha=RATE)

    return update


def adam_update(weights: list[Tensor]) -> Callable[[Sequence[tuple[Tensor, ...]]], None]:
    """Return Adam's update with its default settings: the gradient written once, then PyTorch's one-pass kernel.

    Measured against the form without a stored gradient (``m.addr_(d, x, beta=0.9, alpha=0.1)`` and the like for the
    squares, then a square root and a division), which passes over the weights four times and takes longer.
    """
    gradients, means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(3))
    steps = [torch.zeros(()) for _ in weights]
    settings = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8}
    settings |= {"amsgrad": False, "maximize": False, "grad_scale": None, "found_inf": None}

    def update(factors: Sequence[tuple[Tensor, ...]]) -> None:
        for gradient, factor in zip(gradients, factors, strict=True):
            if len(factor) == 2:
                torch.outer(factor[0], factor[1], out=gradient)
            else:
                gradient.copy_(factor[0])
        for step in steps:
            step += 1
        torch._fused_adam_(weights, gradients, means, squares, [], steps, **settings)

    return update


def sigmoid_mse(weights: list[Tensor], image: Tensor, target: Tensor) -> Sequence[tuple[Tensor, ...]]:
    """Return the gradients of notebook 03's network and loss as factors: (d, x) for a matrix, (g,) for a bias."""
    first, first_bias, last, last_bias = weights
    hidden = torch.addmv(first_bias, first, image).sigmoid_()
    scores = torch.addmv(last_bias, last, hidden).sigmoid_()
    error = (scores - target).mul_(scores).mul_(1 - scores).mul_(0.2)
    back = torch.mv(last.T, error).mul_(hidden).mul_(1 - hidden)
    return (back, image), (back,), (error, hidden), (error,)


def sigmoid_bce(weights: list[Tensor], image: Tensor, target: Tensor) -> Sequence[tuple[Tensor, ...]]:
    """The same for BCELoss, whose denominator cancels the slope of the output's sigmoid."""
    first, first_bias, last, last_bias = weights
    hidden = torch.addmv(first_bias, first, image).sigmoid_()
    scores = torch.addmv(last_bias, last, hidden).sigmoid_()
    error = (scores - target).mul_(0.1)
    back = torch.mv(last.T, error).mul_(hidden).mul_(1 - hidden)
    return (back, image), (back,), (error, hidden), (error,)


def leaky_mse(weights: list[Tensor], image: Tensor, target: Tensor) -> Sequence[tuple[Tensor, ...]]:
    """The same with leaky ReLU in both places: a slope of 1 above zero and 0.02 below."""
    first, first_bias, last, last_bias = weights
    hidden = nn.functional.leaky_relu_(torch.addmv(first_bias, first, image), SLOPE)
    scores = nn.functional.leaky_relu_(torch.addmv(last_bias, last, hidden), SLOPE)
    error = (scores - target).mul_(0.2).mul_(torch.where(scores > 0, 1.0, SLOPE))
    back = torch.mv(last.T, error).mul_(torch.where(hidden > 0, 1.0, SLOPE))
    return (back, image), (back,), (error, hidden), (error,)


def normalized(hidden: Tensor, gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return LayerNorm's output, the standardized signal and one over its deviation."""
    variance, mean = torch.var_mean(hidden, dim=0, correction=0)
    inverse = variance.add_(EPS).rsqrt_()
    standard = (hidden - mean).mul_(inverse)
    return torch.addcmul(shift, gain, standard), standard, inverse


def norm_back(back: Tensor, gain: Tensor, standard: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient in front of LayerNorm, from that behind it."""
    back = back * gain
    along = torch.dot(back, standard).div_(len(back))
    return (back - back.mean()).sub_(standard.mul(along)).mul_(inverse)


def leaky_norm_mse(weights: list[Tensor], image: Tensor, target: Tensor) -> Sequence[tuple[Tensor, ...]]:
    """The same for notebook 08: leaky ReLU, LayerNorm, leaky ReLU."""
    first, first_bias, gain, shift, last, last_bias = weights
    hidden = nn.functional.leaky_relu_(torch.addmv(first_bias, first, image), SLOPE)
    feature, standard, inverse = normalized(hidden, gain, shift)
    scores = nn.functional.leaky_relu_(torch.addmv(last_bias, last, feature), SLOPE)
    error = (scores - target).mul_(0.2).mul_(torch.where(scores > 0, 1.0, SLOPE))
    behind = torch.mv(last.T, error)
    back = norm_back(behind, gain, standard, inverse).mul_(torch.where(hidden > 0, 1.0, SLOPE))
    return (back, image), (back,), (behind * standard,), (behind,), (error, feature), (error,)


def sigmoid_norm_mse(weights: list[Tensor], image: Tensor, target: Tensor) -> Sequence[tuple[Tensor, ...]]:
    """The same for sigmoid, LayerNorm, sigmoid."""
    first, first_bias, gain, shift, last, last_bias = weights
    hidden = torch.addmv(first_bias, first, image).sigmoid_()
    feature, standard, inverse = normalized(hidden, gain, shift)
    scores = torch.addmv(last_bias, last, feature).sigmoid_()
    error = (scores - target).mul_(scores).mul_(1 - scores).mul_(0.2)
    behind = torch.mv(last.T, error)
    back = norm_back(behind, gain, standard, inverse).mul_(hidden).mul_(1 - hidden)
    return (back, image), (back,), (behind * standard,), (behind,), (error, feature), (error,)


def leaky_norm_bce(weights: list[Tensor], image: Tensor, target: Tensor) -> Sequence[tuple[Tensor, ...]]:
    """The same for notebook 09: leaky ReLU, LayerNorm, sigmoid, BCELoss."""
    first, first_bias, gain, shift, last, last_bias = weights
    hidden = nn.functional.leaky_relu_(torch.addmv(first_bias, first, image), SLOPE)
    feature, standard, inverse = normalized(hidden, gain, shift)
    scores = torch.addmv(last_bias, last, feature).sigmoid_()
    error = (scores - target).mul_(0.1)
    behind = torch.mv(last.T, error)
    back = norm_back(behind, gain, standard, inverse).mul_(torch.where(hidden > 0, 1.0, SLOPE))
    return (back, image), (back,), (behind * standard,), (behind,), (error, feature), (error,)


BACKWARD = {
    "baseline": sigmoid_mse,
    "BCELoss": sigmoid_bce,
    "LeakyReLU": leaky_mse,
    "Adam": sigmoid_mse,
    "LayerNorm": leaky_norm_mse,
    "LayerNorm on sigmoid": sigmoid_norm_mse,
    "combination": leaky_norm_bce,
}
