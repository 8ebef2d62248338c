"""What every benchmark uses: the data, a number of threads, and `compare`, which alternates two contestants."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.conditions import conditions
from benchmarks.loops import PandasDigits, Run
from benchmarks.rows import COLUMNS, write_rows
from gan_tutorial.data import MnistDataset, csv_file, load_mnist

BENCH = Path(__file__).parent / "bench.csv"


@pytest.fixture(scope="session")
def digits() -> MnistDataset:
    """The training images: all of MNIST, or the sample where there is no more."""
    return load_mnist()[0]


@pytest.fixture(scope="session")
def table() -> PandasDigits:
    """The same as a table of pandas."""
    return PandasDigits(csv_file("train"))


@pytest.fixture(params=[1, 2], ids="threads={}".format)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads that PyTorch may use during the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> Iterator[list[dict]]:
    """The rows of this run; at the end they replace those of the same cases in ``benchmarks/bench.csv``."""
    found: list[dict] = []
    yield found
    write_rows(BENCH, pd.DataFrame(found, columns=COLUMNS))


@pytest.fixture
def compare(benchmark: Callable, rows: list[dict]) -> Callable[..., dict]:
    """A function that runs two contestants in turn and keeps a row about them."""
    return partial(alternate, benchmark, rows)


def alternate(
    benchmark: Callable, rows: list[dict], ours: Run, theirs: Run, rounds: int, package: str = "torch", **what: object
) -> dict:
    """Time ``theirs`` and ``ours`` in turn, once each a round, after one round that does not count.

    pytest-benchmark times ``ours``; its ``setup``, which it calls before every round, is where ``theirs`` runs.
    The ratio is taken round by round: what slows the whole machine for a while slows both.
    """
    other: list[float] = []

    def run_theirs() -> None:
        start = perf_counter()
        theirs()
        other.append(perf_counter() - start)

    benchmark.pedantic(ours, setup=run_theirs, rounds=rounds, iterations=1, warmup_rounds=1 if rounds > 1 else 0)
    own, other = benchmark.stats.stats.data, other[-rounds:]
    low, middle, high = np.percentile(own, [25, 50, 75])
    ratio_low, ratio, ratio_high = np.percentile(np.divide(own, other), [25, 50, 75])
    row = what | {"kind": "measured", "rounds": rounds, "seconds": middle, "seconds_q1": low, "seconds_q3": high}
    row |= {"against_seconds": np.median(other), "ratio": ratio, "ratio_q1": ratio_low, "ratio_q3": ratio_high}
    row |= conditions(package)
    rows.append(row)
    benchmark.extra_info.update({"ratio": round(ratio, 3), "target": what["target"]})
    return row
