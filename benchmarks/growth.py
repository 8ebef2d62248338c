"""How cost grows with work: time and memory of `train` by images shown, and of `MnistDataset` by rows.

Every point is a process of its own, so that its peak memory is its own. Written to ``growth.csv`` and drawn in
``docs/pictures/growth.png``; run by ``make bench``.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.conditions import conditions
from benchmarks.rows import ROOT
from gan_tutorial.data import MnistDataset, write_csv
from gan_tutorial.network import ANN
from gan_tutorial.training import train

SIZES = {
    "train, plain step": [1_000, 3_000, 10_000, 30_000],
    "train, fast path": [1_000, 10_000, 100_000, 300_000],
    "MnistDataset, CSV": [1_000, 10_000, 100_000],
    "MnistDataset, arrays": [1_000, 10_000, 100_000, 1_000_000],
}
REPEATS = 1  # of each; with more, the least of their times is kept


def digits(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return made-up labels (rows,) and pixels (rows, 784), a fifth of them not black, as in MNIST."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (rows, 784), dtype=np.uint8)
    pixels[:, random.random(784) > 0.2] = 0
    return random.integers(0, 10, rows, dtype=np.uint8), pixels


def peak_memory() -> float:
    """Return the most memory that this process ever held, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage would count what the parent held when it started this process
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")).group(1)) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def prepare(what: str, size: int, file: str) -> Callable[[], object]:
    """Return a function that does the work to be timed, with its input ready and PyTorch warm."""
    warm_up = MnistDataset.from_arrays(*digits(1_000), "made up")
    train(ANN(), warm_up, epochs=1, images_per_epoch=10)  # building the first optimizer imports half of PyTorch
    if what.startswith("train"):
        return lambda: train(ANN(), warm_up, epochs=1, images_per_epoch=size, fast=what.endswith("fast path"))
    if what.endswith("CSV"):
        return lambda: MnistDataset(file)
    arrays = digits(size)
    return lambda: MnistDataset.from_arrays(*arrays, "made up")


def measure(what: str, size: int, file: str) -> None:
    """Do one piece of work in this process and print its seconds and by how many MB it raised the peak of memory."""
    torch.set_num_threads(1)
    work = prepare(what, size, file)
    before, start = peak_memory(), perf_counter()
    kept = work()
    print(f"\n{perf_counter() - start} {peak_memory() - before}")
    del kept


def measured(what: str, size: int, folder: Path) -> dict:
    """Let fresh processes do one piece of work, and return its row."""
    file, runs = folder / f"{size}.csv", []
    if what.endswith("CSV"):
        write_csv(MnistDataset.from_arrays(*digits(size), "made up"), file)
    for repeat in range(REPEATS):
        cache = {"GAN_TUTORIAL_CACHE": str(folder / f"cache {size} {repeat}")}  # read for the first time, each time
        command = [sys.executable, "-m", "benchmarks.growth", what, str(size), str(file)]
        result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | cache)
        runs.append([float(word) for word in result.stdout.split()[-2:]])
    seconds, memory = np.min(runs, axis=0)
    return {"what": what, "size": size, "seconds": round(seconds, 4), "peak_mb": round(memory, 1)} | conditions()


def draw(rows: pd.DataFrame) -> Figure:
    """Draw time and memory against size on logarithmic axes: a straight line of slope 1 is linear growth."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axes, column, label in zip(panels, ("seconds", "peak_mb"), ("seconds", "peak memory added, MB"), strict=True):
        for what, line in rows.groupby("what", sort=False):
            axes.plot(line["size"], line[column].clip(lower=0.1 if column == "peak_mb" else 0), "o-", label=what)
        reference = rows[rows["what"] == "MnistDataset, arrays"].iloc[-1]
        sizes = np.array([1e3, 1e6])
        axes.plot(sizes, reference[column] * sizes / reference["size"], ":", color="grey", label="slope 1: linear")
        axes.set(xscale="log", yscale="log", xlabel="images shown, or rows read", ylabel=label)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    return figure


def main() -> None:
    """Measure everything, write the rows and draw them."""
    with tempfile.TemporaryDirectory() as folder:
        rows = pd.DataFrame([measured(what, size, Path(folder)) for what, sizes in SIZES.items() for size in sizes])
    rows.to_csv(ROOT / "benchmarks" / "growth.csv", index=False)
    draw(rows).savefig(ROOT / "docs" / "pictures" / "growth.png", dpi=110)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    else:
        main()
