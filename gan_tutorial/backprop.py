"""The gradient of `ANN` in closed form: the step of notebook 03 without autograd, for one image at a time."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan_tutorial.network import ANN, KEEP_EVERY


def closed_form_step(network: ANN) -> Callable[[Tensor, Tensor], None] | None:
    """Return a function (image, target) that does what ``network.train_step`` does, or None if it does not know how.

    It knows sigmoid and leaky ReLU, MSELoss and BCELoss, with or without LayerNorm; every optimizer works, and plain
    SGD is quickest, because its update needs no stored gradient.
    """
    return ClosedForm(network).step if is_known(network) else None


def is_known(network: ANN) -> bool:
    """Tell whether `ClosedForm` can differentiate ``network``."""
    layers, loss = list(network.model), network.loss_function
    return (
        type(network).train_step is ANN.train_step
        and all(isinstance(activation, nn.Sigmoid | nn.LeakyReLU) for activation in (layers[1], layers[-1]))
        and (len(layers) == 4 or (isinstance(layers[2], nn.LayerNorm) and layers[2].elementwise_affine))
        and (isinstance(loss, nn.MSELoss) or (isinstance(loss, nn.BCELoss) and loss.weight is None))
        and loss.reduction == "mean"
    )


def is_plain_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether one step of ``optimizer`` is just: parameter -= lr * gradient."""
    extras = ("momentum", "weight_decay", "nesterov", "maximize")
    return type(optimizer) is torch.optim.SGD and not any(optimizer.param_groups[0][name] for name in extras)


def slope(activation: nn.Module, before: Tensor, after: Tensor) -> Tensor | float:
    """Return the derivative of ``activation`` at ``before``, elementwise; ``after`` is its value there."""
    if isinstance(activation, nn.Sigmoid):
        return after * (1 - after)
    assert isinstance(activation, nn.LeakyReLU)
    return (before > 0).to(before.dtype).clamp_(min=activation.negative_slope)


def layer_norm_backward(gradient: Tensor, normalized: Tensor, inverse_deviation: Tensor) -> Tensor:
    """Carry a gradient (200,) back through (x - mean) / deviation: take out what the mean and the deviation absorb."""
    along = (gradient @ normalized) / len(normalized)
    return inverse_deviation * (gradient - gradient.mean() - normalized * along)


class ClosedForm:
    """One network's tensors, laid ready, and the formulas of its step."""

    def __init__(self, network: ANN) -> None:
        self.network, layers = network, list(network.model)
        self.activation, self.output_activation = layers[1], layers[-1]
        self.norm_eps = layers[2].eps if isinstance(layers[2], nn.LayerNorm) else None
        self.weights = [parameter.detach() for parameter in network.model.parameters()]
        self.rate = network.optimizer.param_groups[0]["lr"] if is_plain_sgd(network.optimizer) else None
        if self.rate is None:
            for parameter in network.model.parameters():
                parameter.grad = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, image: Tensor, target: Tensor) -> None:
        """Take one training step on one image (784,) and its one-hot target (10,)."""
        network = self.network
        network.counter += 1
        signals = self.signals(image)
        if network.counter % KEEP_EVERY == 0:
            network.progress.append(network.loss_function(signals["scores"], target).item())
        factors = self.factors(image, target, signals)
        if self.rate is not None:
            self.descend(factors, self.rate)
        else:
            self.store(factors)
            network.optimizer.step()

    def signals(self, image: Tensor) -> dict[str, Tensor]:
        """Run the network forward on an image (784,) and keep every signal between its layers."""
        first_weight, first_bias, *norm, last_weight, last_bias = self.weights
        kept = {"before": torch.addmv(first_bias, first_weight, image)}
        kept["feature"] = kept["after"] = self.activation(kept["before"])
        if self.norm_eps is not None:
            variance, mean = torch.var_mean(kept["after"], dim=0, correction=0)
            kept["inverse_deviation"] = (variance + self.norm_eps).rsqrt()
            kept["normalized"] = (kept["after"] - mean) * kept["inverse_deviation"]
            kept["feature"] = torch.addcmul(norm[1], norm[0], kept["normalized"])
        kept["sum"] = torch.addmv(last_bias, last_weight, kept["feature"])
        kept["scores"] = self.output_activation(kept["sum"])
        return kept

    def error(self, target: Tensor, kept: dict[str, Tensor]) -> Tensor:
        """Return the derivative of the loss by the sums that enter the output activation, (10,)."""
        scores = kept["scores"]
        difference = scores - target
        if isinstance(self.network.loss_function, nn.MSELoss):
            return difference * (2 / len(target)) * slope(self.output_activation, kept["sum"], scores)
        if isinstance(self.output_activation, nn.Sigmoid):  # the sigmoid's slope cancels the denominator of BCELoss
            return difference / len(target)
        denominator = (scores * (1 - scores)).clamp(min=1e-12) * len(target)
        return difference / denominator * slope(self.output_activation, kept["sum"], scores)

    def factors(self, image: Tensor, target: Tensor, kept: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
        """Return the gradient of every parameter: (g,) itself, or (d, x) where it is the outer product of the two."""
        error = self.error(target, kept)
        back = self.weights[-2].T @ error
        norm_factors: list[tuple[Tensor, ...]] = []
        if self.norm_eps is not None:
            norm_factors = [(back * kept["normalized"],), (back,)]
            back = layer_norm_backward(back * self.weights[2], kept["normalized"], kept["inverse_deviation"])
        back = back * slope(self.activation, kept["before"], kept["after"])
        return [(back, image), (back,), *norm_factors, (error, kept["feature"]), (error,)]

    def descend(self, factors: list[tuple[Tensor, ...]], rate: float) -> None:
        """Take the step of plain SGD in place, each weight touched once."""
        for weight, factor in zip(self.weights, factors, strict=True):
            if len(factor) == 2:
                weight.addr_(*factor, alpha=-rate)
            else:
                weight.sub_(factor[0], alpha=rate)

    def store(self, factors: list[tuple[Tensor, ...]]) -> None:
        """Write the gradients where an optimizer looks for them."""
        for parameter, factor in zip(self.network.model.parameters(), factors, strict=True):
            if len(factor) == 2:
                torch.outer(*factor, out=parameter.grad)
            elif parameter.grad is not None:
                parameter.grad.copy_(factor[0])
