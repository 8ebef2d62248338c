"""The step that notebook 11 derives equals autograd's and that of `train(..., fast=True)`."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch

from gan_tutorial.backprop import ClosedForm, closed_form_step
from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN
from gan_tutorial.training import train

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "11_backprop_by_hand.ipynb"


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


def assert_alike(ours, theirs, count):
    assert ours.counter == theirs.counter == count
    assert len(ours.progress) == len(theirs.progress) == count // 10
    assert torch.tensor(ours.progress).sub(torch.tensor(theirs.progress)).abs().max() < 1e-5
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "autograd"])
def test_training_by_hand_equals_train(fast, written_out, sample):
    data, count = sample[0], 500
    set_seed(3)
    ours, theirs = ANN(), ANN()
    theirs.load_state_dict(ours.state_dict())
    for image, target in zip(data.images[:count], data.targets[:count], strict=True):
        written_out["hand_step"](ours, image, target)
    train(theirs, data, 1, count, fast=fast)
    assert_alike(ours, theirs, count)


def test_every_gradient_in_float64_is_autograd_s_and_the_module_s(written_out):
    """In float64 nothing but a wrong formula can differ by more than 1e-12."""
    set_seed(5)
    network = ANN().double()
    image, target = torch.rand(784, dtype=torch.float64), torch.eye(10, dtype=torch.float64)[7]
    module = ClosedForm(network)
    with torch.no_grad():
        y, ours = written_out["gradients"](list(network.parameters()), image, target)
        factors = module.multiply(module.factors(image, target, module.signals(image)))
    network.loss_function(network(image), target).backward()
    torch.testing.assert_close(y, network(image), rtol=1e-9, atol=1e-12)
    for mine, theirs, parameter in zip(ours, factors, network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [20, 2_000])
def test_the_module_takes_the_plain_step_at_the_widths_that_the_notebook_times(width, written_out, sample):
    data, count = sample[0], 50
    set_seed(4)
    plain, quick, by_hand = (written_out["of_width"](width) for _ in range(3))
    for other in (quick, by_hand):
        other.load_state_dict(plain.state_dict())
    quick_step = closed_form_step(quick)
    for image, target in zip(data.images[:count], data.targets[:count], strict=True):
        plain.train_step(image, target)
        quick_step(image, target)
        written_out["hand_step"](by_hand, image, target)
    assert_alike(quick, plain, count)
    assert_alike(by_hand, plain, count)
