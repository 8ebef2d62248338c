"""The command ``study``: train networks over several seeds and keep each run in a CSV file."""

import argparse
import io
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import chain, product
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from gan_tutorial.data import MnistDataset, as_bytes, load_mnist, replacing
from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN
from gan_tutorial.recipes import FACTORIAL, RATES, SEEDED, VARIANTS
from gan_tutorial.records import KEY, STUDY, add_rows, conditions, read_table, write_bands
from gan_tutorial.tools import checkout
from gan_tutorial.training import IMAGES_PER_EPOCH, Epoch, train

CONNECT_SECONDS = 10  # how long to wait for a cluster's answer
_EPOCHS = 4


def main(options: argparse.Namespace) -> int:
    """Add the runs that are missing to the study, and bring the bands beside it up to date."""
    root = checkout()
    name = "rates.csv" if options.rates else "answers.npz" if options.answers else "study.csv"
    if not (file := options.output or (root and root / "gan_tutorial" / "results" / name)):
        raise ValueError("There is no checkout of the course here: name the file to add to with --output FILE.")
    if options.answers:
        _write_answers(file, options)
        return 0
    _train_missing(file, options)
    if not options.rates:
        write_bands(file, file.with_name("bands.csv"), options.fewer_seeds)
    return 0


def _train_missing(file: Path, options: argparse.Namespace) -> None:
    """Train every chosen network with every seed, but for the runs that ``file`` already holds; add each run to it.

    So a study that was stopped goes on where it was. Only this process writes; its workers end with it, however it
    ends. Raises a ValueError for an unknown network and for a cluster that is not there, does not fit or goes away.
    """
    variants = list(options.names or (FACTORIAL if options.factorial else RATES if options.rates else SEEDED))
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise ValueError(f"There is no variant {unknown[0]!r}; choose from: {', '.join(VARIANTS)}.")
    done = set(read_table(file, STUDY)[KEY].itertuples(index=False, name=None)) if file.exists() else set()
    data = load_mnist(options.data)
    train_data, test_data = hold_out(data[0]) if options.rates else data
    images = options.images or IMAGES_PER_EPOCH[options.profile] * len(train_data) // len(data[0])
    settings = {"data": test_data.name, "epochs": _EPOCHS, "images_per_epoch": images}
    seeds = range(options.seeds or (3 if options.rates else 5))
    wanted = [{"variant": variant, **settings, "seed": seed} for seed, variant in product(seeds, variants)]
    missing = [run for run in wanted if tuple(run.values()) not in done]
    with _workers(options.scheduler, options.jobs, train_data, test_data) as parallel:
        finished = parallel(delayed(_train_run)(run, train_data, test_data) for run in missing)
        for count, rows in enumerate(finished, start=1):
            add_rows(file, rows)
            end = rows.iloc[-1]
            print(f"{count} of {len(missing)}: {end['variant']}, seed {end['seed']}: {end['accuracy']:.2%}")


def hold_out(dataset: MnistDataset) -> tuple[MnistDataset, MnistDataset]:
    """Return the training images without every sixth pair, and these: to choose by them, in place of the test images.

    Pairs, because MNIST's file alternates between two groups of writers: every sixth image would be of one group only.
    """
    labels, pixels = as_bytes(dataset)
    sixth, name = np.arange(len(labels)) // 2 % 6 == 0, f"{dataset.name}, held out"
    train_data, held_out = (MnistDataset.from_arrays(labels[rows], pixels[rows], name) for rows in (~sixth, sixth))
    return train_data, held_out


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
        raise ValueError(f"No Dask scheduler answers at {scheduler!r} ({problem!r}). Is the address right?") from None
    with client, parallel_config(backend="dask", scatter=list(data)):
        # Threads of one process share PyTorch's random numbers; for a single worker joblib would train here.
        if len(threads := client.nthreads().values()) < 2 or max(threads) != 1:
            raise ValueError(f"The cluster at {scheduler} needs two workers of one thread each: use --nthreads 1.")
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
    started = time.perf_counter()
    _, history = _train_network(run, train_data, test_data)
    settings: dict = run | conditions(train_data) | {"seconds": round(time.perf_counter() - started, 1)}
    return pd.DataFrame(history).replace(math.inf, math.nan).round({"loss": 6}).assign(**settings)


def _train_network(run: dict, *data: MnistDataset) -> tuple[ANN, list[Epoch]]:
    torch.set_num_threads(1)
    set_seed(run["seed"])
    network = VARIANTS[run["variant"]]()
    return network, train(network, data[0], run["epochs"], run["images_per_epoch"], 1, data[1], fast=True, quiet=True)


def _write_answers(file: Path, options: argparse.Namespace) -> None:
    """Keep what each network of seed 0 answers to the test images, and the largest of its scores (05 and 09)."""
    data = load_mnist(options.data)
    run = {"epochs": _EPOCHS, "images_per_epoch": options.images or IMAGES_PER_EPOCH[options.profile], "seed": 0}
    with _workers(options.scheduler, options.jobs, *data) as parallel:
        names = options.names or SEEDED
        arrays = dict(chain.from_iterable(parallel(delayed(_answers)(run | {"variant": n}, *data) for n in names)))
    content = io.BytesIO()
    np.savez_compressed(content, **{name: arrays[name] for name in sorted(arrays)})
    with replacing(file) as unfinished:
        unfinished.write(content.getvalue())


def _answers(run: dict, *data: MnistDataset) -> list[tuple[str, np.ndarray]]:
    """Train a network; return its answers (n,), uint8, to the test images, and the largest scores (n,), float32."""
    network, _ = _train_network(run, *data)
    scores, digits = network(data[1].images).detach().max(dim=1)
    name = run["variant"]
    return [(f"{name}/answers", digits.to(torch.uint8).numpy()), (f"{name}/scores", scores.numpy())]
