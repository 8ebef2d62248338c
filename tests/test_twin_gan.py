"""The two steps that notebook 20 writes out equal those of the module, to the last bit."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from gan_tutorial import gan
from gan_tutorial.device import set_seed

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "20_gan_pattern.ipynb"


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


def play(discriminator_step, generator_step, end, loss_function, batch):
    """Play 300 rounds; return both networks and what every step gave."""
    set_seed(6)
    generator = nn.Sequential(nn.Linear(1, 3), nn.Sigmoid(), nn.Linear(3, 4), nn.Sigmoid())
    discriminator = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 1), *end)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.5) for network in (generator, discriminator)]
    source, log = torch.Generator().manual_seed(8), []
    for _ in range(300):
        real, noise = torch.rand(batch, 4, generator=source), torch.randn(batch, 1, generator=source)
        generated = generator(noise)
        loss, *scores = discriminator_step(discriminator, optimizers[1], loss_function, real, generated)
        log.append((loss, *(score.tolist() for score in scores)))
        log.append(generator_step(discriminator, optimizers[0], loss_function, generated))
    return generator, discriminator, log


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize(
    ("end", "loss_function"), [([nn.Sigmoid()], nn.MSELoss()), ([], nn.BCEWithLogitsLoss())], ids=["MSE", "logits"]
)
def test_the_written_out_steps_equal_the_modules(written_out, end, loss_function, batch):
    game = end, loss_function, batch
    *ours, our_log = play(gan.discriminator_step, gan.generator_step, *game)
    *theirs, their_log = play(written_out["discriminator_step"], written_out["generator_step"], *game)
    assert our_log == their_log
    for mine, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), other.parameters(), strict=True))
