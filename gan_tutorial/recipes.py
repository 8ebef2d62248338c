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
    "LeakyReLU": {"activation": leaky, "output_activation": leaky},
    "Adam": {"optimizer": adam},
    "LayerNorm": {"normalization": nn.LayerNorm},
}
SEEDED = {  # trained with several seeds: the networks of notebooks 03 to 09, by the improvements they contain
    "baseline": (),
    "BCELoss": ("BCELoss",),
    "LeakyReLU": ("LeakyReLU",),
    "Adam": ("Adam",),
    "LayerNorm": ("LeakyReLU", "LayerNorm"),  # notebook 08 adds it to the leaky network
    "LayerNorm on sigmoid": ("LayerNorm",),
    "combination": ("BCELoss", "LeakyReLU", "Adam", "LayerNorm"),
}


def factorial() -> dict[str, tuple[str, ...]]:
    """Return the names of all 16 ways to choose from the four improvements, each with its choice."""
    names = {parts: name for name, parts in SEEDED.items()}
    choices = [parts for count in range(5) for parts in combinations(IMPROVEMENTS, count)]
    return {names.get(parts, " + ".join(parts)): parts for parts in choices}


FACTORIAL = factorial()


def build(parts: Iterable[str]) -> ANN:
    """Build the network with these improvements.

    LeakyReLU replaces the hidden activation, and the output activation as well unless BCELoss is among the parts,
    which needs a sigmoid there: as in notebooks 06 and 09.
    """
    choices: dict[str, Callable] = {}
    for part in parts:
        choices |= IMPROVEMENTS[part]
    if "BCELoss" in parts:
        choices.pop("output_activation", None)
    return ANN(**choices)


VARIANTS: dict[str, Callable[[], ANN]] = {name: partial(build, parts) for name, parts in FACTORIAL.items()}
