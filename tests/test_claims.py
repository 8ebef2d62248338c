"""Each sentence of part one that names a cause stands on recorded runs that differ in that cause alone.

``claims.csv`` lists them: the cell, two networks of `recipes`, after which epoch the first makes fewer mistakes, and
how the sentence begins.
"""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from gan_tutorial import recipes
from gan_tutorial.records import RESULTS, STUDY, read_table

ROOT = Path(__file__).parents[1]
CLAIMS = list(pd.read_csv(Path(__file__).with_name("claims.csv"), dtype={"epoch": int}).itertuples(index=False))
COST = ["data", "epochs", "images_per_epoch"]


def recipe(name):
    """Return what a network has that the baseline has not: its improvements and its learning rate."""
    base, _, rate = name.partition(", rate ")
    return {*recipes.PARTS[base], *([f"rate {rate}"] if rate else [])}


def differences(first, second):
    """Return how many arguments differ between two networks."""
    one, other = recipe(first), recipe(second)
    rates = [{part for part in parts if part.startswith("rate")} for parts in (one, other)]
    return len((one - rates[0]) ^ (other - rates[1])) + (rates[0] != rates[1])


def runs(name, epoch):
    """Return the accuracies of a network by seed, and what they cost."""
    tables = pd.concat([read_table(RESULTS / f"{file}.csv", STUDY) for file in ("study", "rates")])
    chosen = tables.query("variant == @name and epoch == @epoch and epochs == 4 and images_per_epoch >= 50_000")
    chosen = chosen[chosen["data"].isin(["MNIST", "MNIST, held out"])]
    return chosen.set_index("seed")["accuracy"], set(chosen[COST].itertuples(index=False, name=None))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.notebook[:2]}-{claim.cell}-{claim.epoch}")
def test_the_claim_stands_in_its_cell(claim):
    notebook = nbformat.read(ROOT / "notebooks" / f"{claim.notebook}.ipynb", as_version=4)
    text = next(" ".join(cell.source.split()) for cell in notebook.cells if cell.id == claim.cell)
    assert claim.sentence in text


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.notebook[:2]}-{claim.cell}-{claim.epoch}")
def test_its_two_networks_differ_in_one_argument(claim):
    assert differences(claim.better, claim.worse) == 1


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.notebook[:2]}-{claim.cell}-{claim.epoch}")
def test_recorded_runs_at_equal_cost_bear_it_out(claim):
    (better, cost), (worse, other_cost) = runs(claim.better, claim.epoch), runs(claim.worse, claim.epoch)
    assert cost == other_cost
    assert len(cost) == 1
    assert min(len(better), len(worse)) >= 3
    assert better.mean() > worse.mean()


def test_arguments_are_counted():
    assert differences("baseline", "BCELoss") == 1
    assert differences("baseline", "LeakyReLU") == 2  # inside and at the output
    assert differences("Adam, rate 0.001", "Adam, rate 0.01") == 1
    assert differences("BCELoss, rate 0.1", "baseline, rate 0.3") == 2
