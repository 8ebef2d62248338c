"""Run the notebooks: several at once, each in a process of its own, with everything that they make collected."""

import csv
import difflib
import hashlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from tqdm import tqdm

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TIMES = Path(__file__).parents[1] / "results" / "times.csv"
VERSIONED = ("gan_tutorial", "torch", "numpy", "matplotlib")  # what the look of a figure depends on


class RunError(Exception):
    """The run cannot start as asked: what was wrong, and what there is to choose from."""


@dataclass
class Task:
    """One notebook to run, and what has become of it."""

    notebook: Path
    parameters: dict[str, Any]
    seconds: float = 0.0
    cell: str = ""  # the id of the cell that was started last
    problem: str = ""  # why it failed; empty if it did not
    accuracies: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The notebook's name without its ending, e.g. ``03_baseline_ann``."""
        return self.notebook.stem


@dataclass(frozen=True)
class Settings:
    """What all notebooks of a run have in common."""

    output: Path
    profile: str
    data_source: str
    device: str
    jobs: int
    timeout: int  # seconds a cell may take

    @property
    def data_name(self) -> str:
        """The name of the data set behind the source, as `MnistDataset.name` has it."""
        return "MNIST sample" if self.data_source == "sample" else "MNIST"


# ---- what to run -----------------------------------------------------------------------------------------------


def choose_notebooks(names: Iterable[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks called ``names`` (``03``, ``03_baseline_ann`` or a path), or all of them if none is named.

    Raises:
        RunError: a name fits no notebook; says which there are.
    """
    everything = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    chosen = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        fitting = [known for known in everything if known == stem or known.split("_")[0] == stem]
        if not fitting:
            raise RunError(f"There is no notebook {name!r}. Choose from: {', '.join(everything)}.")
        chosen.update(fitting)
    return [path for stem, path in everything.items() if stem in chosen or not chosen]


def parse_value(name: str, text: str, kind: str) -> int | float | bool | str:
    """Return ``text`` as the type that the notebook's parameter cell declares for ``name``."""
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return {"int": int, "float": float, "str": str}[kind](text)
    except (KeyError, ValueError):
        raise RunError(f"The parameter {name} is of type {kind}; {text!r} is not.") from None


def make_tasks(notebooks: list[Path], given: dict[str, str], common: dict[str, Any]) -> list[Task]:
    """Return a task for each notebook, with the parameters that it declares.

    Args:
        notebooks: what to run.
        given: parameters by name, as text; each has to be declared by one of the notebooks at least.
        common: parameters that the run itself sets where they are declared.

    Raises:
        RunError: a name that no notebook declares, or a value of another type than declared.
    """
    from papermill import inspect_notebook

    declared = {path: inspect_notebook(str(path)) for path in notebooks}
    known = sorted({name for parameters in declared.values() for name in parameters})
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            where = notebooks[0].stem if len(notebooks) == 1 else "the notebooks chosen"
            raise RunError(f"There is no parameter {name!r} in {where}.{hint} Known: {', '.join(known) or 'none'}.")
    tasks = []
    for path, parameters in declared.items():
        values = {name: value for name, value in common.items() if name in parameters}
        for name in parameters.keys() & given.keys():
            values[name] = parse_value(name, given[name], parameters[name]["inferred_type_name"])
        tasks.append(Task(path, values))
    return tasks


# ---- running ---------------------------------------------------------------------------------------------------


class Board:
    """Tells how far the run is: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, tasks: list[Task], quiet_seconds: float = 30.0) -> None:
        self.cells = {task.name: len(nbformat.read(task.notebook, as_version=4).cells) for task in tasks}
        self.done: dict[str, int] = {}
        self.finished = 0
        self.started = self.last_line = time.monotonic()
        self.quiet_seconds = quiet_seconds
        self.lock = threading.Lock()
        self.bar = tqdm(total=sum(self.cells.values()), unit="cell", disable=None, leave=False, file=sys.stderr)

    def cell(self, task: Task, index: int) -> None:
        """Note that a cell has started."""
        with self.lock:
            self.done[task.name] = index
            where = ", ".join(f"{name[:2]}: {k + 1}/{self.cells[name]}" for name, k in sorted(self.done.items()))
            if not self.bar.disable:
                self.bar.set_postfix_str(f"{where}; {self.to_go()}")
                self.bar.update(1)
            elif time.monotonic() - self.last_line > self.quiet_seconds:
                self.line(f"running: {where}; {self.to_go()}")

    def end(self, task: Task) -> None:
        """Note that a notebook has ended."""
        with self.lock:
            self.finished += 1
            self.done.pop(task.name, None)
            self.line(f"{task.name}: {task.problem or 'done'} ({task.seconds:.0f} s); {self.to_go()}")

    def to_go(self) -> str:
        """Return how many notebooks are not finished yet."""
        return f"{len(self.cells) - self.finished} of {len(self.cells)} to go"

    def line(self, text: str) -> None:
        """Print a line with the time elapsed."""
        self.last_line = time.monotonic()
        tqdm.write(f"[{self.last_line - self.started:4.0f} s] {text}", file=sys.stdout)
        sys.stdout.flush()


class Processes:
    """The workers that are running, so that all of them can be stopped."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen] = set()
        self.stopping = False
        self.lock = threading.Lock()

    def start(self, environment: dict[str, str]) -> subprocess.Popen:
        """Start a worker, in a session of its own: Ctrl-C reaches the run alone, and the run decides."""
        with self.lock:
            if self.stopping:
                raise RunError("stopped")
            worker = subprocess.Popen(
                [sys.executable, "-m", "gan_tutorial.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
                start_new_session=True,
            )
            self.running.add(worker)
            return worker

    def stop(self, patience: float = 10.0) -> None:
        """End every worker, and through it its kernel."""
        with self.lock:
            self.stopping = True
            workers = list(self.running)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(patience)
            except subprocess.TimeoutExpired:
                worker.kill()


def run(tasks: list[Task], settings: Settings) -> list[Task]:
    """Run all tasks, ``settings.jobs`` at once, and return them with what became of each."""
    for folder in ("notebooks", "figures", ".running"):
        (settings.output / folder).mkdir(parents=True, exist_ok=True)
    board, processes = Board(tasks), Processes()
    with ThreadPoolExecutor(settings.jobs) as pool:
        try:
            # the longest notebooks are not known ahead; in order of number, each ends as early as it can
            list(pool.map(lambda task: run_task(task, settings, board, processes), tasks))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
        finally:
            board.bar.close()
    write_manifest(tasks, settings)
    shutil.rmtree(settings.output / ".running", ignore_errors=True)
    return tasks


def run_task(task: Task, settings: Settings, board: Board, processes: Processes) -> None:
    """Run one notebook, once more if its kernel did not start, and keep what it made."""
    started = time.monotonic()
    unfinished = settings.output / ".running" / task.notebook.name
    for _attempt in range(2):
        failure = run_worker(task, unfinished, settings, board, processes)
        if task.cell or not failure:
            break
    if processes.stopping:
        return
    task.seconds = time.monotonic() - started
    executed = nbformat.read(unfinished, as_version=4) if unfinished.exists() else None
    task.problem = (failure and describe(task, failure, executed)) or (find_problem(task, executed) if executed else "")
    if executed:
        keep(task, executed, settings.output / "notebooks")
    board.end(task)


def run_worker(task: Task, output: Path, settings: Settings, board: Board, processes: Processes) -> dict[str, str]:
    """Run a task's notebook in a worker; return {} or what the worker said of its failure."""
    threads = max(1, (os.cpu_count() or 1) // settings.jobs)
    figures = str(settings.output.resolve() / "figures")
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "GAN_TUTORIAL_FIGURES": figures,
        "GAN_TUTORIAL_PROFILE": settings.profile,
    }
    if folder := environment.get("GAN_TUTORIAL_DATA"):  # the kernel runs in another folder than we do
        environment["GAN_TUTORIAL_DATA"] = str(Path(folder).resolve())
    worker = processes.start(environment)
    assert worker.stdin
    assert worker.stdout
    names = {"notebook": str(task.notebook.resolve()), "output": str(output.resolve())}
    worker.stdin.write(json.dumps(names | {"parameters": task.parameters, "timeout": settings.timeout}))
    worker.stdin.close()
    failure: dict[str, str] = {}
    for line in worker.stdout:
        event = json.loads(line)
        if "cell" in event:
            task.cell = event["cell"]
            board.cell(task, event["index"])
        else:
            failure = event
    if worker.wait() and not failure:
        failure = {"error": "the process that ran it ended", "message": f"exit code {worker.returncode}"}
    return failure


def describe(task: Task, failure: dict[str, str], executed: NotebookNode | None) -> str:
    """Return one line on why a worker failed: where, and what went wrong."""
    problem = find_problem(task, executed) if executed and failure["error"] == "PapermillExecutionError" else ""
    reasons = {
        "DeadKernelError": "the kernel died (see `gan-tutorial doctor`)",
        "CellTimeoutError": "the time limit of a cell has passed (see --timeout)",
    }
    message = failure["message"].strip().splitlines() or [""]
    reason = reasons.get(failure["error"], f"{failure['error']}: {message[0]}")
    return problem or f"failed{where(task, task.cell)}: {reason}"


def find_problem(task: Task, executed: NotebookNode) -> str:
    """Return one line on the first cell that raised an error or was left unrun, or an empty string."""
    for cell in executed.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                first_line = (output.evalue.strip().splitlines() or [""])[0]
                return f"failed{where(task, cell.id)}: {output.ename}: {first_line}"
        if cell.execution_count is None:
            return f"failed{where(task, cell.id)}: the cell was left unrun; did one before it end the kernel?"
    return ""


def where(task: Task, cell_id: str) -> str:
    """Return the place of a cell in the notebook: its number and its first line."""
    for number, cell in enumerate(nbformat.read(task.notebook, as_version=4).cells, start=1):
        if cell.id == cell_id:
            return f" in cell {number} ({cell.source.strip().splitlines()[0][:60]})"
    return ""


# ---- what is kept ----------------------------------------------------------------------------------------------


def keep(task: Task, executed: NotebookNode, folder: Path) -> None:
    """Put an executed notebook into ``folder``; a failed one beside the last good one, under another name."""
    normalise(executed)
    task.accuracies = {m["variant"]: m["accuracy"] for _, _, m in marks(executed) if "accuracy" in m}
    good, failed = folder / task.notebook.name, folder / f"{task.name}.failed.ipynb"
    write_text(failed if task.problem else good, nbformat.writes(executed) + "\n")
    if not task.problem:
        failed.unlink(missing_ok=True)


def normalise(notebook: NotebookNode) -> None:
    """Take out what differs from run to run: papermill's notes, times and the kernel's version."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", ["any"]):
            del cell.metadata["tags"]  # papermill gives every cell an empty list


def marks(notebook: NotebookNode) -> list[tuple[int, NotebookNode, dict[str, Any]]]:
    """Return (cell number, cell, what `plots.show` or `report_accuracy` noted) for each output that has such a note."""
    return [
        (number, cell, dict(output.metadata["gan_tutorial"]))
        for number, cell in enumerate(notebook.cells, start=1)
        if cell.cell_type == "code"
        for output in cell.outputs
        if "gan_tutorial" in output.get("metadata", {})
    ]


def write_manifest(tasks: list[Task], settings: Settings) -> None:
    """List the figures of this run, and those of notebooks that were not part of it, in ``figures/manifest.json``."""
    folder = settings.output / "figures"
    file = folder / "manifest.json"
    old = json.loads(file.read_text(encoding="utf-8"))["figures"] if file.exists() else []
    succeeded = [task for task in tasks if not task.problem]
    entries = [entry for entry in old if entry["notebook"] not in {task.name for task in succeeded}]
    for task in succeeded:
        executed = nbformat.read(settings.output / "notebooks" / task.notebook.name, as_version=4)
        entries += [figure_entry(task, settings, folder, *mark) for mark in marks(executed) if "figure" in mark[2]]
    entries.sort(key=lambda entry: entry["png"])
    write_text(file, json.dumps({"figures": entries}, indent=1, ensure_ascii=False) + "\n")


def figure_entry(
    task: Task, settings: Settings, folder: Path, number: int, cell: NotebookNode, mark: dict[str, str]
) -> dict[str, Any]:
    """Return all that is to be known of one figure."""
    png = folder / f"{mark['figure']}.png"
    return {
        "png": png.name,
        "svg": f"{mark['figure']}.svg",
        "notebook": task.name,
        "cell": number,
        "cell_id": cell.id,
        "alt": mark["alt"],
        "seed": task.parameters.get("seed", 0),
        "profile": settings.profile,
        "data": settings.data_name,
        "device": settings.device,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONED},
        "sha256": hashlib.sha256(png.read_bytes()).hexdigest(),
    }


def write_text(file: Path, text: str) -> None:
    """Write a file that is either the old one or the whole new one, never half of it."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


def table(tasks: list[Task]) -> str:
    """Return a line for each notebook: name, time, accuracies and result."""
    lines = [f"{'notebook':26} {'time':>7}  accuracy and result"]
    for task in tasks:
        accuracies = ", ".join(f"{variant} {value:.2%}" for variant, value in task.accuracies.items())
        result = task.problem or "ok"
        lines.append(f"{task.name:26} {task.seconds:5.0f} s  {accuracies + '; ' if accuracies else ''}{result}")
    return "\n".join(lines)


def put_back(tasks: list[Task], output: Path, times: Path = TIMES) -> None:
    """Replace the notebooks by their executed forms, with the recorded running time, without the injected cell."""
    for task in tasks:
        executed = nbformat.read(output / "notebooks" / task.notebook.name, as_version=4)
        executed.cells = [c for c in executed.cells if "injected-parameters" not in c.metadata.get("tags", [])]
        code_cells = (cell for cell in executed.cells if cell.cell_type == "code" and cell.execution_count is not None)
        for count, cell in enumerate(code_cells, start=1):
            cell.execution_count = count
        if line := running_time(task.name, times):
            executed.cells[0].source = re.sub(r"\*\*Running time:\*\*.*", line, executed.cells[0].source)
        write_text(task.notebook, nbformat.writes(executed) + "\n")


def record_times(tasks: list[Task], settings: Settings, file: Path = TIMES) -> None:
    """Keep how long each notebook took, with the conditions, as rows of ``results/times.csv``."""
    conditions = {
        "data": settings.data_name,
        "device": settings.device,
        "jobs": settings.jobs,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": version("torch"),
        "date": time.strftime("%Y-%m-%d"),
    }
    rows = [
        {"notebook": task.name, "profile": settings.profile, "seconds": round(task.seconds, 1)} | conditions
        for task in tasks
        if not task.problem
    ]
    known = {(row["notebook"], row["profile"]): row for row in [*read_times(file), *rows]}
    lines = [",".join(str(value) for value in known[key].values()) for key in sorted(known)]
    if rows:
        write_text(file, "\n".join([",".join(rows[0]), *lines]) + "\n")


def read_times(file: Path = TIMES) -> list[dict[str, Any]]:
    """Return the rows of ``results/times.csv``."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def running_time(notebook: str, file: Path = TIMES) -> str:
    """Return the line that tells a notebook's running time, or an empty string if it has not been recorded."""
    seconds = {row["profile"]: float(row["seconds"]) for row in read_times(file) if row["notebook"] == notebook}
    if set(seconds) != {"full", "quick"}:
        return ""
    return f"**Running time:** {about(seconds['full'])}; in profile quick {about(seconds['quick'])}"


def about(seconds: float) -> str:
    """Return a time rounded up: to 10 seconds below two minutes, else to minutes."""
    if seconds > 110:
        return f"{math.ceil(seconds / 60)} minutes"
    return f"{max(math.ceil(seconds / 10), 1) * 10} seconds"
