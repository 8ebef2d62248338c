"""Results over seeds: train every variant of notebooks 03 to 09 several times and keep each run in a CSV file."""

import math
import platform
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock
from joblib import Parallel, delayed
from torch import nn

from gan_tutorial.data import MnistDataset, load_mnist
from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN
from gan_tutorial.training import train

RESULTS = Path(__file__).parents[1] / "results"
SETTINGS = ["variant", "data", "epochs", "images_per_epoch"]
KEY = [*SETTINGS, "seed"]  # what makes a run the same run

leaky = partial(nn.LeakyReLU, 0.02)
adam = partial(torch.optim.Adam, fused=True)  # Adam's arithmetic in one call a step: the same but for rounding
VARIANTS: dict[str, Callable[[], ANN]] = {
    "baseline": ANN,
    "BCELoss": partial(ANN, loss_function=nn.BCELoss),
    "LeakyReLU": partial(ANN, activation=leaky, output_activation=leaky),
    "Adam": partial(ANN, optimizer=adam),
    "LayerNorm": partial(ANN, activation=leaky, output_activation=leaky, normalization=nn.LayerNorm),
    "LayerNorm on sigmoid": partial(ANN, normalization=nn.LayerNorm),
    "combination": partial(ANN, loss_function=nn.BCELoss, activation=leaky, normalization=nn.LayerNorm, optimizer=adam),
}


def run_study(file: Path, source: str, seeds: Iterable[int], epochs: int, images_per_epoch: int, jobs: int = 1) -> None:
    """Train every variant with every seed, ``jobs`` at once, and add each finished run to ``file``.

    Runs that ``file`` already holds are skipped, so a study that was stopped goes on where it was.
    """
    train_data, test_data = load_mnist(source)
    settings = {"epochs": epochs, "images_per_epoch": images_per_epoch}
    wanted = [
        {"variant": variant, "data": test_data.name, **settings, "seed": seed}
        for seed, variant in product(seeds, VARIANTS)
    ]
    done = finished_runs(file)
    Parallel(n_jobs=jobs)(
        delayed(add_run)(file, run, train_data, test_data)
        for run in wanted
        if tuple(run[name] for name in KEY) not in done
    )


def finished_runs(file: Path) -> set[tuple]:
    """Return the keys of the runs that ``file`` holds."""
    return set(pd.read_csv(file)[KEY].itertuples(index=False, name=None)) if file.exists() else set()


def add_run(file: Path, run: dict, train_data: MnistDataset, test_data: MnistDataset) -> None:
    """Train one variant with one seed on one thread, and add a row for each epoch to ``file``."""
    torch.set_num_threads(1)
    set_seed(run["seed"])
    network = VARIANTS[run["variant"]]()
    started = time.perf_counter()
    history = train(network, train_data, run["epochs"], run["images_per_epoch"], test_data=test_data, fast=True)
    seconds = time.perf_counter() - started
    conditions = {
        "data_sha256": train_data.sha256,
        "device": "cpu",
        "machine": platform.machine(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
    }
    rows = [run | {"epoch": e.epoch, "accuracy": e.accuracy, "loss": round(e.loss, 6)} | conditions for e in history]
    add_rows(file, pd.DataFrame(rows))


def add_rows(file: Path, rows: pd.DataFrame) -> None:
    """Add ``rows`` to a CSV file so that, whatever happens, it holds all of them or none.

    Raises:
        ValueError: a row does not say which run and epoch it belongs to.
    """
    if missing := {*KEY, "epoch"} - set(rows.columns):
        raise ValueError(f"Rows for {file.name} lack {', '.join(sorted(missing))}; nothing was written.")
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists():
            rows = pd.concat([pd.read_csv(file), rows])
        unfinished = file.with_suffix(".unfinished")
        rows.sort_values([*KEY, "epoch"]).to_csv(unfinished, index=False)
        unfinished.replace(file)


def band(accuracies: pd.Series) -> pd.Series:
    """Return the band of accuracies to expect, from those of several seeds.

    The rule: from the lowest to the highest seen, widened on both sides by three standard deviations, but by at least
    one percentage point, then rounded outwards to half points.
    """
    margin = max(0.01, 3 * accuracies.std())
    low = math.floor((accuracies.min() - margin) * 200) / 200
    high = math.ceil((accuracies.max() + margin) * 200) / 200
    origin = f"{len(accuracies)} seeds: {accuracies.min():.4f} to {accuracies.max():.4f}"
    return pd.Series({"low": max(low, 0.0), "high": min(high, 1.0), "origin": origin})


def write_bands(study_file: Path, bands_file: Path) -> None:
    """Write the band of every variant and setting in ``study_file``; bands "set in advance" stay as they are."""
    study = pd.read_csv(study_file)
    last = study[study["epoch"] == study["epochs"]]
    measured = pd.DataFrame(
        [dict(zip(SETTINGS, key, strict=True)) | dict(band(rows["accuracy"])) for key, rows in last.groupby(SETTINGS)]
    )
    old = pd.read_csv(bands_file) if bands_file.exists() else measured.iloc[:0]
    kept = old[old["origin"].str.startswith("set in advance")]
    bands = pd.concat([kept, measured]).drop_duplicates(SETTINGS).sort_values(["data", "images_per_epoch", "variant"])
    unfinished = bands_file.with_suffix(".unfinished")
    bands.to_csv(unfinished, index=False)
    unfinished.replace(bands_file)
