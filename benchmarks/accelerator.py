"""Measure training steps on the CPU and an accelerator: python benchmarks/accelerator.py --help.

results/accelerator.csv keeps the rows; notebook 04 draws those of accelerators. The clock waits for the device; devices
take turns, so that a busy moment of the machine hits them all, and the median of their times counts.
"""

import argparse
import contextlib
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.benchmark import Timer

from gan_tutorial.data import MnistDataset, load_mnist, replacing
from gan_tutorial.device import choose_device, set_seed
from gan_tutorial.network import ANN
from gan_tutorial.records import RESULTS

COLUMNS = ["case", "method", "device_type", "device_name", "x", "value", "unit", "torch", "python", "date"]
CPU = torch.device("cpu")
PARITY_BATCH, PARITY_TOLERANCE = 256, 1e-4  # images; relative difference that rounding of float32 cannot explain

Work = Callable[[], object]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Effort:
    """How much to measure: turns of each device, the shortest time of a turn in seconds, largest batch."""

    turns: int
    seconds: float
    largest_batch: int


FULL = Effort(turns=7, seconds=0.1, largest_batch=4_096)
QUICK = Effort(turns=3, seconds=0.002, largest_batch=64)


class Recorder:
    """The rows measured so far, in the form of gan_tutorial/results/accelerator.csv."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def add(self, case: str, method: str, device: torch.device, x: int, value: float, unit: str) -> None:
        """Keep one measurement, and print it."""
        row: dict[str, object] = {
            "case": case,
            "method": method,
            "device_type": device.type,
            "device_name": device_name(device),
        }
        row |= {"x": x, "value": value, "unit": unit}
        row |= {"torch": torch.__version__, "python": platform.python_version(), "date": date.today().isoformat()}
        self.rows.append(row)
        print(f"{case:17}{method:7}{device.type:5}{x:6} {value:12.4g} {unit}", flush=True)


def device_name(device: torch.device) -> str:
    """Return what the maker calls the device; for a CPU also the number of threads, which its times depend on."""
    if device.type == "cpu":
        return f"{cpu_name()}, {torch.get_num_threads()} thread(s)"
    module = torch.get_device_module(device)
    return module.get_device_name(device) if hasattr(module, "get_device_name") else f"{cpu_name()}, {device.type}"


def cpu_name() -> str:
    """Return the processor's name as Linux or macOS know it, else its architecture."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


# ---- the stopwatch ---------------------------------------------------------------------------------------------


def medians(works: dict[Key, Work], effort: Effort) -> dict[Key, float]:
    """Return the median seconds of one call of each work; the works take turns."""
    threads = torch.get_num_threads()  # Timer would take one
    timers = {key: Timer("work()", globals={"work": work}, num_threads=threads) for key, work in works.items()}
    calls = {key: calls_of_a_turn(timer, effort) for key, timer in timers.items()}
    times: dict[Key, list[float]] = {key: [] for key in works}
    for _ in range(effort.turns):
        for key, timer in timers.items():
            times[key].append(timer.timeit(calls[key]).mean)  # warms up, waits for the device before and after
    return {key: median(values) for key, values in times.items()}


def calls_of_a_turn(timer: Timer, effort: Effort) -> int:
    """Return how many calls in a row fill a turn, from a first few calls."""
    timer.timeit(1)  # loading of programs, memory
    return max(1, min(10_000, round(effort.seconds / timer.timeit(3).mean)))


# ---- the cases -------------------------------------------------------------------------------------------------


def step_work(dataset: MnistDataset, device: torch.device, batch_size: int) -> Work:
    """Return one training step of notebook 03 on a batch; a batch of 1 is one image as a vector."""
    set_seed(0)
    network = ANN().to(device)
    chosen = 0 if batch_size == 1 else torch.arange(batch_size) % len(dataset)
    images, targets = dataset.images[chosen].to(device), dataset.targets[chosen].to(device)
    return partial(network.train_step, images, targets)


def measure_steps(recorder: Recorder, dataset: MnistDataset, devices: list[torch.device], effort: Effort) -> None:
    """Time the training step for batches that are powers of 4."""
    for batch_size in [4**k for k in range(7) if 4**k <= effort.largest_batch]:
        works = {device: step_work(dataset, device, batch_size) for device in devices}
        for device, seconds in medians(works, effort).items():
            recorder.add("batch_throughput", "torch", device, batch_size, batch_size / seconds, "images/s")


def loss_and_gradients(dataset: MnistDataset, device: torch.device, dtype: torch.dtype) -> tuple[float, Tensor]:
    """Return the loss of one batch and all gradients in a row, (159010,) float64, computed with a type of number."""
    set_seed(0)
    network = ANN().to(device, dtype)
    images, targets = (values[:PARITY_BATCH].to(device, dtype) for values in (dataset.images, dataset.targets))
    loss = network.loss_function(network(images), targets)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients]).cpu().double()


def measure_parity(recorder: Recorder, dataset: MnistDataset, devices: list[torch.device]) -> None:
    """Compare loss and gradients with those computed in float64 on the CPU."""
    reference_loss, reference = loss_and_gradients(dataset, CPU, torch.float64)
    for device in devices:
        loss, gradients = loss_and_gradients(dataset, device, torch.float32)
        worst = ((gradients - reference).abs().max() / reference.abs().max()).item()
        differences = {"loss": abs(loss - reference_loss) / reference_loss, "gradient": worst}
        for quantity, value in differences.items():
            recorder.add("parity", "torch", device, PARITY_BATCH, value, f"relative {quantity} difference")


def measure(device: torch.device, effort: Effort) -> pd.DataFrame:
    """Return the rows of every case, on the CPU and on ``device``; say in a line what was left out."""
    devices = [CPU] if device.type == "cpu" else [CPU, device]
    dataset, _ = load_mnist("sample")  # the same images on every machine, without a download
    recorder = Recorder()
    measure_steps(recorder, dataset, devices, effort)
    measure_parity(recorder, dataset, devices)
    if device == CPU:
        print("Left out: all cases on an accelerator (measured on the CPU alone).")
    return pd.DataFrame(recorder.rows, columns=COLUMNS)


def write(rows: pd.DataFrame, file: Path) -> None:
    """Put ``rows`` into ``file``: those of the same devices are replaced, those of others kept; all or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists():
            old = pd.read_csv(file)
            rows = pd.concat([old[~old["device_name"].isin(rows["device_name"])], rows])
        with replacing(file) as unfinished:
            rows.to_csv(unfinished, index=False, float_format="%.6g")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure, and write; a device that is not there ends it with one line."""
    parser = argparse.ArgumentParser(description="Measure training steps on the CPU and an accelerator.")
    parser.add_argument("--device", default="auto", help="compared with the CPU: auto (default), cpu, cuda, mps, xpu")
    parser.add_argument("--output", type=Path, default=RESULTS / "accelerator.csv", help="the CSV file to update")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: small sizes, coarse times")
    options = parser.parse_args(arguments)
    try:
        device = choose_device(options.device)
    except ValueError as problem:
        sys.exit(f"--device: {problem}")
    rows = measure(device, QUICK if options.quick else FULL)
    write(rows, options.output)
    print(f"{len(rows)} rows written to {options.output.name}: {', '.join(rows['device_name'].unique())}.")


if __name__ == "__main__":
    main()
