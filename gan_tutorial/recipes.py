"""Every trained network of the course by name (notebooks 03 to 10)."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations

import torch
from torch import nn

from gan_tutorial.network import ANN

leaky = partial(nn.LeakyReLU, 0.02)
adam = partial(torch.optim.Adam, fused=True)  # Adam's arithmetic in one call a step: the same but for rounding
IMPROVEMENTS: dict[str, dict[str, Callable]] = {
    "BCELoss": {"loss_function": nn.BCELoss},
    "LeakyReLU": {"activation": leaky},
    "Adam": {"optimizer": adam},
    "LayerNorm": {"normalization": nn.LayerNorm},
}
_OUTPUT = "leaky output"  # as in notebook 06; BCELoss needs a sigmoid there
_CHOICES = IMPROVEMENTS | {_OUTPUT: {"output_activation": leaky}}
SEEDED = {  # trained with several seeds: the networks of notebooks 03 to 09, by what they have and the baseline has not
    "baseline": (),
    "BCELoss": ("BCELoss",),
    "LeakyReLU": ("LeakyReLU", _OUTPUT),
    "Adam": ("Adam",),
    "LayerNorm": ("LeakyReLU", _OUTPUT, "LayerNorm"),  # notebook 08 adds it to the leaky network
    "LayerNorm on sigmoid": ("LayerNorm",),
    "combination": ("BCELoss", "LeakyReLU", "Adam", "LayerNorm"),
}


def factorial() -> dict[str, tuple[str, ...]]:
    """Return the names of all 16 ways to choose from the four improvements, each with its choice.

    The output is a sigmoid in all of them; "LeakyReLU inside" says so where another network has it at the output, too.
    """
    names = {parts: name for name, parts in SEEDED.items()}
    for parts in [chosen for count in range(5) for chosen in combinations(IMPROVEMENTS, count)]:
        name = " + ".join(parts) if "BCELoss" in parts else " + ".join(parts).replace("LeakyReLU", "LeakyReLU inside")
        names.setdefault(parts, name)
    return {name: parts for parts, name in names.items() if _OUTPUT not in parts}


FACTORIAL = factorial()
_LEAKY_OUTPUT = {
    _OUTPUT: (_OUTPUT,),
    "LeakyReLU + Adam": ("LeakyReLU", _OUTPUT, "Adam"),
    "LeakyReLU + Adam + LayerNorm": ("LeakyReLU", _OUTPUT, "Adam", "LayerNorm"),
}


def build(parts: Iterable[str], rate: float | None = None) -> ANN:
    """Build the network with these improvements, and with another learning rate than theirs if one is given."""
    network = ANN(**{name: choice for part in parts for name, choice in _CHOICES[part].items()})
    for group in network.optimizer.param_groups:
        group["lr"] = rate or group["lr"]
    return network


# The map of learning rates: each network with each of these, and beyond them where the best stood at the edge.
_SGD_RATES, _ADAM_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
_BEYOND = {"baseline": (3.0, 10.0), "BCELoss": (3.0, 10.0), "combination": (0.00003,)}
RATES: dict[str, Callable[[], ANN]] = {
    f"{name}, rate {rate:g}": partial(build, parts, rate)
    for name, parts in SEEDED.items()
    for rate in (*(_ADAM_RATES if "Adam" in parts else _SGD_RATES), *_BEYOND.get(name, ()))
}
PARTS = SEEDED | FACTORIAL | _LEAKY_OUTPUT
VARIANTS: dict[str, Callable[[], ANN]] = {name: partial(build, parts) for name, parts in PARTS.items()} | RATES
