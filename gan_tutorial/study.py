"""Results over seeds: train the variants of notebooks 03 to 09 several times and keep each run in a CSV file."""

import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from filelock import FileLock
from joblib import Parallel, delayed, parallel_config
from torch import nn

from gan_tutorial.data import MnistDataset, load_mnist
from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN
from gan_tutorial.training import train

if TYPE_CHECKING:
    from distributed import Client

RESULTS = Path(__file__).parents[1] / "results"
SETTINGS = ["variant", "data", "epochs", "images_per_epoch"]
KEY = [*SETTINGS, "seed"]  # what makes a run the same run
CONNECT_SECONDS = 10  # how long to wait for a cluster's answer

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


def run_study(
    file: Path,
    source: str,
    seeds: Iterable[int],
    epochs: int,
    images_per_epoch: int,
    jobs: int = 1,
    variants: Iterable[str] = tuple(SEEDED),
    scheduler: str = "",
) -> None:
    """Train every variant with every seed, ``jobs`` at once, and add each finished run to ``file``.

    Runs that ``file`` already holds are skipped, so a study that was stopped goes on where it was. Only this process
    writes; the workers hand their rows back.

    Args:
        file: the CSV file to add to.
        source: where the data come from, as for `load_mnist`.
        seeds: one training of every variant with each of them.
        epochs: as for `train`.
        images_per_epoch: as for `train`.
        jobs: trainings at once on this machine.
        variants: names in `VARIANTS`.
        scheduler: address of a Dask cluster that trains instead of this machine, such as ``tcp://192.0.2.1:8786``.

    Raises:
        ValueError: an unknown variant; a cluster that is not there or does not fit.
    """
    variants = list(variants)
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise ValueError(f"There is no variant {unknown[0]!r}; choose from: {', '.join(VARIANTS)}.")
    train_data, test_data = load_mnist(source)
    settings = {"epochs": epochs, "images_per_epoch": images_per_epoch}
    wanted = [
        {"variant": variant, "data": test_data.name, **settings, "seed": seed}
        for seed, variant in product(seeds, variants)
    ]
    done = finished_runs(file)
    missing = [run for run in wanted if tuple(run[name] for name in KEY) not in done]
    with workers(scheduler, train_data, test_data):
        parallel = Parallel(n_jobs=-1 if scheduler else jobs, return_as="generator_unordered")
        finished = parallel(delayed(train_run)(run, train_data, test_data) for run in missing)
        for count, rows in enumerate(finished, start=1):
            add_rows(file, rows)
            end = rows.iloc[-1]
            print(f"{count} of {len(missing)}: {end['variant']}, seed {end['seed']}: {end['accuracy']:.2%}", flush=True)


@contextmanager
def workers(scheduler: str, *data: MnistDataset) -> Iterator[None]:
    """Let joblib work on the Dask cluster at ``scheduler``, which gets ``data`` once; "" means on this machine.

    Raises:
        ValueError: Dask is not installed, no cluster answers, or its workers have more than one thread each.
    """
    if not scheduler:
        yield
        return
    with connect(scheduler) as client, parallel_config(backend="dask", scatter=list(data)):
        # Threads of one process share PyTorch's random numbers: two trainings would disturb each other's seed.
        if max(client.nthreads().values(), default=0) != 1:
            raise ValueError(
                f"The cluster at {scheduler} needs workers of one thread each: start them with --nthreads 1."
            )
        yield


def connect(scheduler: str) -> "Client":
    """Return a client of the Dask cluster at ``scheduler``; raise the errors that `workers` documents."""
    try:
        from distributed import Client
    except ImportError:
        raise ValueError('--scheduler needs Dask: pip install "gan_tutorial[cluster]"') from None
    try:
        return Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ValueError(f"No Dask scheduler answers at {scheduler!r} ({reason}). Is the address right?") from None


def finished_runs(file: Path) -> set[tuple]:
    """Return the keys of the runs that ``file`` holds."""
    return set(pd.read_csv(file)[KEY].itertuples(index=False, name=None)) if file.exists() else set()


def read_runs(*files: Path, data: str = "MNIST", epochs: int = 4, images_per_epoch: int = 60_000) -> pd.DataFrame:
    """Return the recorded runs of one setting: a row for each variant, seed and epoch (notebook 10).

    Args:
        files: CSV files as `run_study` writes them; of a run in several of them the last file's rows count.
            ``results/study.csv`` if none is given.
        data: the name of the data set, ``"MNIST"`` or ``"MNIST sample"``.
        epochs: how many epochs the runs had.
        images_per_epoch: images in each of their epochs.

    Raises:
        ValueError: no such run is recorded; tells which settings are.
    """
    tables = [pd.read_csv(file) for file in files or (RESULTS / "study.csv",)]
    runs = pd.concat(tables).drop_duplicates([*KEY, "epoch"], keep="last")
    wanted = {"data": data, "epochs": epochs, "images_per_epoch": images_per_epoch}
    chosen = runs[(runs[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    if chosen.empty:
        there = runs[list(wanted)].drop_duplicates().itertuples(index=False, name=None)
        raise ValueError(f"No run is recorded for {tuple(wanted.values())}; recorded are {', '.join(map(str, there))}.")
    return chosen.reset_index(drop=True)


def train_run(run: dict, train_data: MnistDataset, test_data: MnistDataset) -> pd.DataFrame:
    """Train one variant with one seed on one thread, and return a row for each epoch."""
    torch.set_num_threads(1)
    set_seed(run["seed"])
    network = VARIANTS[run["variant"]]()
    started = time.perf_counter()
    history = train(
        network, train_data, run["epochs"], run["images_per_epoch"], test_data=test_data, fast=True, quiet=True
    )
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
    epochs = [{"epoch": e.epoch, "accuracy": e.accuracy, "loss": round(e.loss, 6)} for e in history]
    return pd.DataFrame([run | epoch | conditions for epoch in epochs])


def add_rows(file: Path, rows: pd.DataFrame, key: Sequence[str] = (*KEY, "epoch")) -> None:
    """Add ``rows`` to a CSV file so that, whatever happens, it holds all of them or none.

    Of rows with an equal ``key`` the newest stays.

    Raises:
        ValueError: a row does not say which run and epoch it belongs to.
    """
    if missing := set(key) - set(rows.columns):
        raise ValueError(f"Rows for {file.name} lack {', '.join(sorted(missing))}; nothing was written.")
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists():
            rows = pd.concat([pd.read_csv(file), rows])
        unfinished = file.with_suffix(".unfinished")
        rows.drop_duplicates(list(key), keep="last").sort_values(list(key)).to_csv(unfinished, index=False)
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
    """Write the band of every variant and setting with several seeds in ``study_file``.

    A single run shows no scatter and gives no band. Bands "set in advance" stay as they are.
    """
    study = pd.read_csv(study_file)
    last = study[study["epoch"] == study["epochs"]]
    several = last[last.groupby(SETTINGS)["seed"].transform("nunique") > 1]
    measured = pd.DataFrame(
        [
            dict(zip(SETTINGS, key, strict=True)) | dict(band(rows["accuracy"]))
            for key, rows in several.groupby(SETTINGS)
        ]
    )
    old = pd.read_csv(bands_file) if bands_file.exists() else measured.iloc[:0]
    kept = old[old["origin"].str.startswith("set in advance")]
    bands = pd.concat([kept, measured]).drop_duplicates(SETTINGS).sort_values(["data", "images_per_epoch", "variant"])
    unfinished = bands_file.with_suffix(".unfinished")
    bands.to_csv(unfinished, index=False)
    unfinished.replace(bands_file)
