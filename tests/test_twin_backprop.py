"""The step that notebook 11 derives equals autograd's and that of `train(..., fast=True)`."""

import ast
from functools import partial
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from gan_tutorial.backprop import closed_form_step
from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN
from gan_tutorial.training import train

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "11_backprop_by_hand.ipynb"
leaky = partial(nn.LeakyReLU, 0.02)
NETWORKS = {
    "baseline": ANN,
    "BCELoss": partial(ANN, loss_function=nn.BCELoss),
    "LeakyReLU": partial(ANN, activation=leaky, output_activation=leaky),
    "LayerNorm": partial(ANN, activation=leaky, output_activation=leaky, normalization=nn.LayerNorm),
    "all but Adam": partial(ANN, loss_function=nn.BCELoss, activation=leaky, normalization=nn.LayerNorm),
}
each_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(scope="module")
def written_out():
    """The names that the notebook's cells tagged ``twin`` define."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    imports = [
        cell.source
        for cell in cells
        if all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in ast.parse(cell.source).body)
    ]
    namespace = {}
    for source in imports + [cell.source for cell in cells if "twin" in cell.metadata.get("tags", [])]:
        exec(source, namespace)
    return namespace


def trained(build, take_steps):
    """Return a network of seed 3 after ``take_steps(network)``."""
    set_seed(3)
    network = build()
    take_steps(network)
    return network


def assert_alike(ours, theirs, count):
    assert ours.counter == theirs.counter == count
    assert len(ours.progress) == len(theirs.progress) == count // 10
    assert torch.tensor(ours.progress).sub(torch.tensor(theirs.progress)).abs().max() < 1e-5
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


@each_network
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "autograd"])
def test_training_by_hand_equals_train(build, fast, written_out, sample):
    data, count = sample[0], 500

    def by_hand(network):
        for image, target in zip(data.images[:count], data.targets[:count], strict=True):
            written_out["hand_step"](network, image, target)

    ours = trained(build, by_hand)
    theirs = trained(build, lambda network: train(network, data, 1, count, fast=fast))
    assert_alike(ours, theirs, count)


@each_network
def test_the_module_knows_every_network_of_the_notebook(build):
    assert closed_form_step(build()) is not None


@each_network
def test_every_gradient_in_float64(build, written_out):
    """In float64 nothing but a wrong formula can differ by more than 1e-12."""
    set_seed(5)
    network = build().double()
    image, target = torch.rand(784, dtype=torch.float64), torch.eye(10, dtype=torch.float64)[7]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # LayerNorm's 1 and 0 would hide mistakes
        pairs = written_out["backward"](network, written_out["forward"](network, image), target)
    network.loss_function(network(image), target).backward()
    assert len(pairs) == len(list(network.parameters()))
    for parameter, d, *signal in pairs:
        ours = torch.outer(d, *signal) if signal else d
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-9, atol=1e-12)


def test_layer_norm_backward_against_finite_differences(written_out):
    set_seed(6)
    h, d_n, tiny = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64), 1e-6

    def normalize(values):
        r = (values.var(correction=0) + 1e-5).rsqrt()
        return (values - values.mean()) * r, r

    ours = written_out["layer_norm_backward"](d_n, *normalize(h))
    for j, direction in enumerate(torch.eye(7, dtype=torch.float64)):
        up, down = (d_n @ normalize(h + sign * tiny * direction)[0] for sign in (1, -1))
        assert ours[j].item() == pytest.approx(((up - down) / (2 * tiny)).item(), abs=1e-8)
