"""The command ``study``: train networks over several seeds and keep each run in a CSV file."""

import argparse
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pandas as pd
import psutil
import torch
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from gan_tutorial.data import MnistDataset, load_mnist
from gan_tutorial.device import set_seed
from gan_tutorial.recipes import FACTORIAL, SEEDED, VARIANTS
from gan_tutorial.records import KEY, STUDY, add_rows, conditions, read_table, write_bands
from gan_tutorial.tools import checkout
from gan_tutorial.training import IMAGES_PER_EPOCH, train

CONNECT_SECONDS = 10  # how long to wait for a cluster's answer


def main(options: argparse.Namespace) -> int:
    """Add the runs that are missing to the study, and bring the bands beside it up to date."""
    root = checkout()
    if not (file := options.output or (root and root / "gan_tutorial" / "results" / "study.csv")):
        raise ValueError("There is no checkout of the course here: name the file to add to with --output FILE.")
    seeds = options.seeds or (1 if options.factorial else 5)
    images = options.images or IMAGES_PER_EPOCH[options.profile]
    variants = FACTORIAL if options.factorial else options.names or SEEDED
    try:
        run_study(file, options.data, range(seeds), 4, images, options.jobs, variants, options.scheduler)
        write_bands(file, file.with_name("bands.csv"), options.fewer_seeds)
    except OSError as problem:
        raise ValueError(f"{problem.filename or file}: {problem.strerror or problem}.") from None
    return 0


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
    """Train ``variants``, names in `VARIANTS`, with every seed, ``jobs`` at once, and add each run to ``file``.

    Runs that ``file`` already holds are skipped, so a study that was stopped goes on where it was. Only this process
    writes; its workers end with it, however it ends. ``source``, ``epochs`` and ``images_per_epoch`` are as for
    `load_mnist` and `train`; ``scheduler`` is the address of a Dask cluster that trains instead of this machine.

    Raises:
        ValueError: an unknown variant; a cluster that is not there, does not fit or goes away; see `read_table`.
        DataError: no data, or a file that cannot be written.
    """
    variants = list(variants)
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise ValueError(f"There is no variant {unknown[0]!r}; choose from: {', '.join(VARIANTS)}.")
    done = set(read_table(file, STUDY)[KEY].itertuples(index=False, name=None)) if file.exists() else set()
    train_data, test_data = load_mnist(source)
    settings = {"data": test_data.name, "epochs": epochs, "images_per_epoch": images_per_epoch}
    wanted = [{"variant": variant, **settings, "seed": seed} for seed, variant in product(seeds, variants)]
    missing = [run for run in wanted if tuple(run.values()) not in done]
    with _workers(scheduler, jobs, train_data, test_data) as parallel:
        finished = parallel(delayed(_train_run)(run, train_data, test_data) for run in missing)
        for count, rows in enumerate(finished, start=1):
            add_rows(file, rows)
            end = rows.iloc[-1]
            print(f"{count} of {len(missing)}: {end['variant']}, seed {end['seed']}: {end['accuracy']:.2%}", flush=True)


@contextmanager
def _workers(scheduler: str, jobs: int, *data: MnistDataset) -> Iterator[Parallel]:
    """Yield what trains: ``jobs`` processes here, or the Dask cluster at ``scheduler``, which gets ``data`` once."""
    if not scheduler:
        yield Parallel(jobs, return_as="generator_unordered", initializer=_end_with, initargs=[os.getpid()])
        return
    try:
        from distributed import Client

        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # no tracebacks beside our one line
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except ImportError:
        raise ValueError('--scheduler needs Dask: pip install "gan_tutorial[cluster]"') from None
    except (OSError, ValueError, TypeError) as problem:
        reason = [*str(problem).splitlines(), type(problem).__name__][0]
        raise ValueError(f"No Dask scheduler answers at {scheduler!r} ({reason}). Is the address right?") from None
    with client, parallel_config(backend="dask", scatter=list(data)):
        # Threads of one process share PyTorch's random numbers: two trainings would disturb each other's seed.
        if max(client.nthreads().values(), default=0) != 1:
            raise ValueError(f"The cluster at {scheduler} needs workers of one thread each: use --nthreads 1.")
        try:
            yield Parallel(n_jobs=-1, return_as="generator_unordered")
        except (CancelledError, OSError):
            advice = "What was finished is kept; start the cluster and then the study again."
            raise ValueError(f"The Dask scheduler at {scheduler} has gone. {advice}") from None


def _end_with(parent: int) -> None:
    """Let this worker end soon after its parent, also if that was killed and could not end it."""
    tqdm.set_lock(threading.RLock())  # tqdm's own is a system-wide semaphore, which would be left behind

    def watch() -> None:
        while (process := psutil.Process().parent()) and process.pid == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_run(run: dict, train_data: MnistDataset, test_data: MnistDataset) -> pd.DataFrame:
    """Train one variant with one seed on one thread, and return a row for each epoch."""
    torch.set_num_threads(1)
    set_seed(run["seed"])
    network = VARIANTS[run["variant"]]()
    started = time.perf_counter()
    history = train(network, train_data, run["epochs"], run["images_per_epoch"], 1, test_data, fast=True, quiet=True)
    seconds = round(time.perf_counter() - started, 1)
    results = [{"epoch": e.epoch, "accuracy": e.accuracy, "loss": round(e.loss, 6)} for e in history]
    return pd.DataFrame([run | result | conditions(train_data) | {"seconds": seconds} for result in results])
