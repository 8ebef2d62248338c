"""Run notebooks: several at once, each in a process of its own, the longest first."""

import contextlib
import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
from filelock import AcquireReturnProxy, FileLock, Timeout
from tqdm import tqdm

from gan_tutorial._sources import CACHE_VARIABLE, FOLDER_VARIABLE
from gan_tutorial.plots import FIGURES_VARIABLE
from gan_tutorial.records import RESULTS
from gan_tutorial.tools import closed_pipe_is_no_fault
from gan_tutorial.tools.outputs import TIMES, keep, table, write_times
from gan_tutorial.tools.tasks import RunError, Settings, Task, first_line
from gan_tutorial.training import PROFILE_VARIABLE

_UNFINISHED, _EXECUTED, _ERRORS = ".running-", "executed.ipynb", "errors.txt"


class Progress:
    """Tells how far a run is: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, notebooks: int, quiet_seconds: float = 30.0) -> None:
        form = "{n_fmt} of {total_fmt} notebooks |{bar:20}| {elapsed}{postfix}"
        self.bar = tqdm(total=notebooks, file=sys.stdout, bar_format=form, disable=None, leave=False)
        self.notebooks = self.to_go = notebooks  # the run counts the latter down
        self.quiet_seconds = quiet_seconds
        self.began = self.last_line = time.monotonic()

    def show(self, running: list[Task]) -> None:
        """Show the present state: call it every now and then."""
        names = ", ".join(task.name for task in running)
        self.bar.n = self.notebooks - self.to_go
        self.bar.set_postfix_str(names)
        if self.bar.disable and time.monotonic() - self.last_line > self.quiet_seconds:
            self.say(f"still running: {names}; {self.to_go} to go")

    def say(self, text: str) -> None:
        """Print a line with the time elapsed; if nobody reads it any more, the run goes on all the same."""
        self.last_line = time.monotonic()
        with closed_pipe_is_no_fault():
            tqdm.write(f"[{self.last_line - self.began:4.0f} s] {text}", file=sys.stdout)
            sys.stdout.flush()


class _Running(NamedTuple):
    """A notebook that is being run."""

    task: Task
    folder: Path  # for what it makes, until that is kept
    process: subprocess.Popen
    began: float


def run(tasks: list[Task], settings: Settings) -> None:
    """Run all tasks, ``settings.jobs`` at once, note in each what became of it, and show that in a table.

    Raises:
        RunError: another run uses the output folder, or it cannot be written.
    """
    with _lock(settings.output), tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=settings.output) as scratch:
        waiting = longest_first([task for task in tasks if not task.problem], settings.profile)
        progress = Progress(len(waiting))
        running: list[_Running] = []
        try:
            while waiting or running:
                while waiting and len(running) < settings.jobs:
                    running.append(_start(waiting.pop(0), Path(scratch), settings))
                    progress.say(f"{running[-1].task.name}: started")
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    _finish(one, settings)
                    progress.to_go -= 1
                    outcome = f"{one.task.problem or 'done'} ({one.task.seconds:.0f} s)"
                    progress.say(f"{one.task.name}: {outcome}; {progress.to_go} to go")
                progress.show([one.task for one in running])
                time.sleep(0.1)
        finally:
            progress.bar.close()
            _stop(running)
        with closed_pipe_is_no_fault():
            print(table(tasks), flush=True)
        write_times(tasks, settings)


def _lock(output: Path) -> AcquireReturnProxy:
    """Make ``output``, keep all other runs out of it until this one ends, and remove what dead runs left there."""
    try:
        for folder in ("notebooks", "figures"):
            (output / folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / "run.lock").acquire(blocking=False)
        (output / TIMES).unlink(missing_ok=True)  # they are not those of what comes now
    except Timeout:
        raise RunError(f"Another run uses the folder {output}: wait for its end, or name another --output.") from None
    except OSError as problem:
        raise RunError(f"The output folder cannot be used: {problem}. Name another with --output.") from None
    for left in output.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    return lock


def longest_first(tasks: list[Task], profile: str) -> list[Task]:
    """Sort by the recorded times, those of which none is recorded first: then all end together."""
    with (RESULTS / "times.csv").open(encoding="utf-8", newline="") as lines:
        seconds = {row["notebook"]: float(row["seconds"]) for row in csv.DictReader(lines) if row["profile"] == profile}
    return sorted(tasks, key=lambda task: -seconds.get(task.name, math.inf))


def _start(task: Task, scratch: Path, settings: Settings) -> _Running:
    """Start a notebook in a session of its own: Ctrl-C reaches the run alone, and the run decides.

    The process ends when its standard input does, so none outlives the run, however that comes to its end.
    """
    folder = scratch.resolve() / task.notebook.stem
    (folder / "figures").mkdir(parents=True)
    parameters = json.dumps(task.parameters, ensure_ascii=False)
    paths = [str(task.notebook.resolve()), str(folder / _EXECUTED)]
    with (folder / _ERRORS).open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "gan_tutorial.tools.worker", *paths, parameters, str(settings.timeout)],
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
            env=_environment(folder / "figures", settings.profile),
            start_new_session=True,
        )
    return _Running(task, folder, process, time.monotonic())


def _environment(figures: Path, profile: str) -> dict[str, str]:
    """Return the environment variables of a notebook's process and kernel."""
    own = {FIGURES_VARIABLE: str(figures), PROFILE_VARIABLE: profile}
    own |= {"OMP_NUM_THREADS": "1"}  # other counts of threads give other last bits
    own |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    for variable in (FOLDER_VARIABLE, CACHE_VARIABLE):
        place = os.environ.get(variable)
        if place and (variable, place) != (FOLDER_VARIABLE, "sample"):
            own[variable] = str(Path(place).expanduser().resolve())  # the kernel runs in another folder than we do
    return os.environ | own


def _finish(one: _Running, settings: Settings) -> None:
    """Note why a notebook failed, if it did, and keep what it made."""
    task, executed = one.task, one.folder / _EXECUTED
    task.seconds = time.monotonic() - one.began
    try:
        if one.process.returncode:
            lines = (one.folder / _ERRORS).read_text("utf-8", errors="replace").strip().splitlines()
            task.problem = lines[-1] if lines else f"failed: its process ended with code {one.process.returncode}"
        if executed.exists():
            keep(task, nbformat.read(executed, as_version=4), one.folder / "figures", settings)
    except Exception as problem:  # whatever one notebook leaves behind, the others go on
        task.problem = task.problem or f"failed: what it made cannot be kept: {first_line(problem)}"


def _stop(running: list[_Running]) -> None:
    """End every process, and through it its kernel; what is still there after ten seconds is killed."""
    processes = []
    for one in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(one.process.pid)
            processes += [process, *process.children(recursive=True)]
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
