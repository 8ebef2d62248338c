"""The gradient of `ANN` in closed form: the step of notebook 03 without autograd (derived in notebook 11).

One image (784,) or a batch (n, 784): the formulas are the same, but gradients of weights and biases are sums over rows.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.adam import adam

from gan_tutorial.network import ANN, KEEP_EVERY


def closed_form_step(network: ANN) -> Callable[[Tensor, Tensor], None] | None:
    """Return a function (images, targets) that does what ``network.train_step`` does, or None if it does not know how.

    It knows sigmoid, leaky ReLU, MSELoss, BCELoss and LayerNorm. Build it anew after changing network or optimizer.
    """
    return ClosedForm(network).step if _is_known(network) else None


def _is_known(network: ANN) -> bool:
    """Tell whether `ClosedForm` can differentiate ``network``."""
    layers, loss = list(network.model), network.loss_function
    return (
        type(network).train_step is ANN.train_step
        and type(network).forward is ANN.forward
        and all(parameter.requires_grad for parameter in network.parameters())
        and all(isinstance(activation, nn.Sigmoid | nn.LeakyReLU) for activation in (layers[1], layers[-1]))
        and (len(layers) == 4 or (isinstance(layers[2], nn.LayerNorm) and layers[2].elementwise_affine))
        and (isinstance(loss, nn.MSELoss) or (isinstance(loss, nn.BCELoss) and loss.weight is None))
        and loss.reduction == "mean"
    )


def _is_plain(optimizer: Optimizer, kind: type[Optimizer], parameters: list[nn.Parameter]) -> bool:
    """Tell whether ``optimizer`` is exactly of this ``kind``, with none of its extras, and moves all ``parameters``."""
    group = optimizer.param_groups[0]
    extras = ("momentum", "weight_decay", "nesterov", "amsgrad", "maximize", "capturable", "differentiable")
    return (
        type(optimizer) is kind
        and [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in parameters]
        and isinstance(group["lr"], float)
        and not any(group.get(name) for name in extras)
    )


def _direct_adam(optimizer: Optimizer) -> Callable[[list[Tensor]], None]:
    """Return a function (gradients) that does what the ``step`` of a plain Adam does, in PyTorch's one fused call.

    It looks up tensors and settings once, not in every step. The moments stay in the optimizer: either can go on.
    """
    group = optimizer.param_groups[0]
    for parameter in group["params"]:
        if not optimizer.state[parameter]:  # Adam itself does this in its first step
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(0.0)} | moments
    states = [optimizer.state[parameter] for parameter in group["params"]]
    weights = [parameter.detach() for parameter in group["params"]]
    means, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    settings = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
    settings |= dict(zip(("beta1", "beta2"), group["betas"], strict=True))
    return lambda gradients: adam(weights, gradients, means, squares, [], steps, fused=True, **settings)


def _slope(activation: nn.Module, before: Tensor, after: Tensor) -> Tensor | float:
    """Return the derivative of ``activation`` at ``before``, elementwise; ``after`` is its value there."""
    if isinstance(activation, nn.LeakyReLU):
        return (before > 0).to(before.dtype).clamp_(min=activation.negative_slope)
    return after * (1 - after)  # the sigmoid


def layer_norm_backward(gradient: Tensor, normalized: Tensor, inverse_deviation: Tensor) -> Tensor:
    """Carry a gradient (..., 200) back through (x - mean) / deviation: take out what these two absorb."""
    along = torch.linalg.vecdot(gradient, normalized).unsqueeze(-1) / normalized.shape[-1]
    return inverse_deviation * (gradient - gradient.mean(-1, keepdim=True) - normalized * along)


def _affine(signal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return weight @ signal + bias, for one signal or for each row of a batch."""
    return torch.addmv(bias, weight, signal) if signal.dim() == 1 else torch.addmm(bias, signal, weight.T)


def _total(gradient: Tensor) -> Tensor:
    """Return the gradient of a bias: that of the sum it enters, added up over a batch."""
    return gradient if gradient.dim() == 1 else gradient.sum(0)


def _product(back: Tensor, signal: Tensor, out: Tensor) -> Tensor:
    """Write the gradient of a weight matrix into ``out``: the outer product, added up over a batch."""
    return torch.outer(back, signal, out=out) if back.dim() == 1 else torch.mm(back.T, signal, out=out)


class ClosedForm:
    """One network's tensors, laid ready, and the formulas of its step."""

    def __init__(self, network: ANN) -> None:
        self.network, self.loss_function, layers = network, network.loss_function, list(network.model)
        self.activation, self.output_activation = layers[1], layers[-1]
        self.norm_eps = layers[2].eps if isinstance(layers[2], nn.LayerNorm) else None
        self.parameters = list(network.model.parameters())
        self.weights = [parameter.detach() for parameter in self.parameters]  # the same memory, unknown to autograd
        self.gradients = [torch.zeros_like(weight) for weight in self.weights]
        self.update = self.choose_update(network.optimizer)

    def choose_update(self, optimizer: Optimizer) -> Callable[[list[tuple[Tensor, ...]]], None]:
        """Return the quickest function (factors) that moves the weights as ``optimizer`` would."""
        if _is_plain(optimizer, SGD, self.parameters):
            return partial(self.descend, rate=optimizer.param_groups[0]["lr"])
        if _is_plain(optimizer, Adam, self.parameters) and self.weights[0].device.type == "cpu":
            move = _direct_adam(optimizer)
            return lambda factors: move(self.multiply(factors))
        return self.store_and_step

    def step(self, images: Tensor, targets: Tensor) -> None:
        """Take one training step on one image (784,) or a batch (n, 784) and its one-hot targets."""
        self.network.counter += 1
        signals = self.signals(images)
        if self.network.counter % KEEP_EVERY == 0:
            self.network.progress.append(self.loss_function(signals["scores"], targets).item())
        self.update(self.factors(images, targets, signals))

    def signals(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network forward and keep every signal between its layers."""
        first_weight, first_bias, *norm, last_weight, last_bias = self.weights
        kept = {"before": _affine(images, first_weight, first_bias)}
        kept["feature"] = kept["after"] = self.activation.forward(kept["before"])
        if self.norm_eps is not None:
            variance, mean = torch.var_mean(kept["after"], dim=-1, correction=0, keepdim=True)
            kept["inverse_deviation"] = (variance + self.norm_eps).rsqrt()
            kept["normalized"] = (kept["after"] - mean) * kept["inverse_deviation"]
            kept["feature"] = torch.addcmul(norm[1], norm[0], kept["normalized"])
        kept["sum"] = _affine(kept["feature"], last_weight, last_bias)
        kept["scores"] = self.output_activation.forward(kept["sum"])
        return kept

    def error(self, targets: Tensor, kept: dict[str, Tensor]) -> Tensor:
        """Return the derivative of the loss by the sums that enter the output activation, (..., 10)."""
        scores, difference = kept["scores"], kept["scores"] - targets
        if isinstance(self.loss_function, nn.MSELoss):
            return difference * (2 / targets.numel()) * _slope(self.output_activation, kept["sum"], scores)
        if isinstance(self.output_activation, nn.Sigmoid):  # the sigmoid's slope cancels the denominator of BCELoss
            return difference / targets.numel()
        denominator = (scores * (1 - scores)).clamp(min=1e-12) * targets.numel()
        return difference / denominator * _slope(self.output_activation, kept["sum"], scores)

    def factors(self, images: Tensor, targets: Tensor, kept: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
        """Return the gradient of every parameter: (g,) itself, or (d, x) where it is the outer product of the two."""
        error = self.error(targets, kept)
        back = error @ self.weights[-2]
        norm_factors: list[tuple[Tensor, ...]] = []
        if self.norm_eps is not None:
            norm_factors = [(_total(back * kept["normalized"]),), (_total(back),)]
            back = layer_norm_backward(back * self.weights[2], kept["normalized"], kept["inverse_deviation"])
        back = back * _slope(self.activation, kept["before"], kept["after"])
        return [(back, images), (_total(back),), *norm_factors, (error, kept["feature"]), (_total(error),)]

    def descend(self, factors: list[tuple[Tensor, ...]], rate: float) -> None:
        """Take the step of plain SGD in place: each weight is touched once, and no large gradient is ever stored."""
        for weight, factor in zip(self.weights, factors, strict=True):
            if len(factor) == 1:
                weight.sub_(factor[0], alpha=rate)
            elif factor[0].dim() == 1:
                weight.addr_(*factor, alpha=-rate)
            else:
                weight.addmm_(factor[0].T, factor[1], alpha=-rate)

    def multiply(self, factors: list[tuple[Tensor, ...]]) -> list[Tensor]:
        """Return the gradients in full; the large ones are written over those of the step before."""
        pairs = zip(factors, self.gradients, strict=True)
        return [_product(*factor, out=gradient) if len(factor) == 2 else factor[0] for factor, gradient in pairs]

    def store_and_step(self, factors: list[tuple[Tensor, ...]]) -> None:
        """Write the gradients where the optimizer looks for them, and let it take its step."""
        for parameter, gradient in zip(self.parameters, self.multiply(factors), strict=True):
            parameter.grad = gradient
        self.network.optimizer.step()
