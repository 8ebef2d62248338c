"""Train the variants of notebooks 03 to 09 over several seeds and keep each run in a CSV file."""

import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config

from gan_tutorial.data import MnistDataset, load_mnist
from gan_tutorial.device import set_seed
from gan_tutorial.recipes import SEEDED, VARIANTS
from gan_tutorial.records import KEY, add_rows, finished_runs
from gan_tutorial.training import train

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10  # how long to wait for a cluster's answer


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
