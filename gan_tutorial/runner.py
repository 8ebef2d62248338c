"""Run the notebooks: several at once, each in a process of its own, with everything that they make collected."""

import contextlib
import csv
import difflib
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import nbformat
import psutil
from nbformat import NotebookNode
from tqdm import tqdm

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TIMES = Path(__file__).parents[1] / "results" / "times.csv"
DATA_SHA256 = {  # `MnistDataset.sha256` of the training images, by the name of the data
    "MNIST": "a454de301763d749ccfd1ebb5add77d549bcd2125320df72efaa88e014fca0f0",
    "MNIST sample": "9d79f8acfa60994da6a5110ad5c7657095d09db20f8eccddf348fb9d6944f25e",
}
VERSIONED = ("gan_tutorial", "torch", "numpy", "matplotlib")  # what the look of a figure depends on


class RunError(Exception):
    """The run cannot start as asked: what was wrong, and what there is to choose from."""


@dataclass
class Task:
    """One notebook to run, and what has become of it."""

    notebook: Path
    parameters: dict[str, Any]
    seed: int | None = None  # what the notebook's own parameter `seed` is in this run
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
        RunError: a name fits no notebook of ``folder``, or there is none in it; says which there are.
    """
    everything = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not everything:
        raise RunError(f"There is no notebook in {folder}: none is named like 03_baseline_ann.ipynb.")
    chosen = set()
    for name in names:
        fitting = [path for path in everything if is_called(path, Path(name))]
        if not fitting:
            stems = ", ".join(path.stem for path in everything)
            raise RunError(f"There is no notebook {name!r} in {folder.name}. Choose from: {stems}.")
        chosen.update(fitting)
    return [path for path in everything if path in chosen or not chosen]


def is_called(notebook: Path, name: Path) -> bool:
    """Tell whether ``name`` means this notebook: its number, its name, or, with a folder in it, its path."""
    if name.parent != Path():
        return name.resolve() == notebook.resolve()
    return name.name in (notebook.stem.split("_")[0], notebook.stem, notebook.name)


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
        tasks.append(Task(path, values, seed=effective_seed(parameters, values)))
    return tasks


def effective_seed(declared: dict[str, Any], given: dict[str, Any]) -> int | None:
    """Return the seed a notebook runs with: the one given, else its own; None if it has no parameter ``seed``."""
    if "seed" not in declared:
        return None
    return given["seed"] if "seed" in given else int(parse_value("seed", declared["seed"]["default"], "int"))


# ---- running ---------------------------------------------------------------------------------------------------


class Board:
    """Tells how far the run is: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, tasks: list[Task], quiet_seconds: float = 30.0) -> None:
        self.cells = {task.name: count_cells(task) for task in tasks}
        self.done: dict[str, int] = {}  # cells behind us, of each notebook that has started
        self.running: set[str] = set()
        self.to_go = len(tasks)
        self.started = self.last_line = time.monotonic()
        self.quiet_seconds = quiet_seconds
        self.lock = threading.Lock()
        form = "{n_fmt} of {total_fmt} cells |{bar:20}| {elapsed}{postfix}"
        self.bar = tqdm(total=sum(self.cells.values()), bar_format=form, disable=None, leave=False, dynamic_ncols=True)

    def start(self, task: Task) -> None:
        """Note that a notebook has started."""
        with self.lock:
            self.done[task.name] = 0
            self.running.add(task.name)
            if self.bar.disable:
                self.line(f"{task.name}: started")

    def cell(self, task: Task, index: int) -> None:
        """Note that a cell has started."""
        with self.lock:
            self.done[task.name] = index

    def end(self, task: Task) -> None:
        """Note that a notebook has ended."""
        with self.lock:
            self.running.discard(task.name)
            self.done[task.name] = self.cells[task.name]
            self.to_go -= 1
            self.line(f"{task.name}: {task.problem or 'done'} ({task.seconds:.0f} s); {self.to_go} to go")

    def tick(self) -> None:
        """Show the present state: call it every second or so."""
        with self.lock:
            where = ", ".join(
                f"{name[:2]}: cell {self.done[name] + 1}/{self.cells[name]}" for name in sorted(self.running)
            )
            state = f"{where or 'waiting'}; {self.to_go} of {len(self.cells)} notebooks to go"
            if not self.bar.disable:
                self.bar.n = sum(self.done.values())
                self.bar.set_postfix_str(state)
            elif time.monotonic() - self.last_line > self.quiet_seconds:
                self.line(f"running {state}")

    def line(self, text: str) -> None:
        """Print a line with the time elapsed."""
        self.last_line = time.monotonic()
        tqdm.write(f"[{self.last_line - self.started:4.0f} s] {text}", file=sys.stdout)
        sys.stdout.flush()


def count_cells(task: Task) -> int:
    """Return how many cells run: those of the notebook, and the one that papermill puts in for parameters."""
    return len(nbformat.read(task.notebook, as_version=4).cells) + bool(task.parameters)


class Processes:
    """The workers that are running, so that all of them can be stopped."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen] = set()
        self.stopping = False
        self.lock = threading.Lock()

    def start(self, environment: dict[str, str], errors: IO[str]) -> subprocess.Popen:
        """Start a worker, in a session of its own: Ctrl-C reaches the run alone, and the run decides.

        The worker ends when its standard input does, so none outlives the run, however that comes to its end.
        """
        with self.lock:
            if self.stopping:
                raise RunError("The run was stopped.")
            worker = subprocess.Popen(
                [sys.executable, "-m", "gan_tutorial.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
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
                kill_tree(worker.pid)


def kill_tree(pid: int) -> None:
    """End a process and all below it at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            one.kill()


def run(tasks: list[Task], settings: Settings) -> list[Task]:
    """Run all tasks, ``settings.jobs`` at once, and return them with what became of each.

    Raises:
        RunError: the output folder cannot be written.
    """
    try:
        for folder in ("notebooks", "figures"):
            (settings.output / folder).mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".running-", dir=settings.output, ignore_cleanup_errors=True)
    except OSError as problem:
        raise RunError(f"The output folder cannot be used: {problem}. Name another with --output.") from None
    board, processes = Board(tasks), Processes()
    with scratch, contextlib.closing(board.bar), ThreadPoolExecutor(settings.jobs) as pool:
        futures = [pool.submit(run_task, task, Path(scratch.name), settings, board, processes) for task in tasks]
        try:
            while wait(futures, timeout=1.0).not_done:
                board.tick()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    for future in futures:
        future.result()  # raises what went wrong in the runner itself
    return tasks


def run_task(task: Task, scratch: Path, settings: Settings, board: Board, processes: Processes) -> None:
    """Run one notebook, once more if its kernel did not start, and keep what it made."""
    started = time.monotonic()
    board.start(task)
    folder = scratch / task.name
    (folder / "figures").mkdir(parents=True)
    for _attempt in range(2):
        failure = run_worker(task, folder, settings, board, processes)
        if task.cell or not failure:
            break
    if processes.stopping:
        return  # cut short on purpose: neither a result nor a failure
    task.seconds = time.monotonic() - started
    unfinished = folder / task.notebook.name
    executed = nbformat.read(unfinished, as_version=4) if unfinished.exists() else None
    task.problem = (failure and describe(task, failure, executed)) or (find_problem(task, executed) if executed else "")
    if executed:
        with board.lock:  # one at a time: they share the manifest
            keep(task, executed, folder / "figures", settings)
    board.end(task)


def run_worker(task: Task, folder: Path, settings: Settings, board: Board, processes: Processes) -> dict[str, str]:
    """Run a task's notebook in a worker, into ``folder``; return {} or what the worker said of its failure."""
    names = {"notebook": str(task.notebook.resolve()), "output": str((folder / task.notebook.name).resolve())}
    order = json.dumps(names | {"parameters": task.parameters, "timeout": settings.timeout})
    failure: dict[str, str] = {}
    with (folder / "errors.txt").open("w+", encoding="utf-8", errors="replace") as errors:
        with processes.start(kernel_environment(folder, settings), errors) as worker:
            assert worker.stdin
            assert worker.stdout
            worker.stdin.write(order + "\n")
            worker.stdin.flush()  # stays open: its end would end the worker
            for line in worker.stdout:
                event = json.loads(line)
                if "cell" in event:
                    task.cell = event["cell"]
                    board.cell(task, event["index"])
                else:
                    failure = event
        if worker.returncode and not failure:
            errors.seek(0)
            last_line = (errors.read().strip().splitlines() or [f"exit code {worker.returncode}"])[-1]
            failure = {"error": "the process that ran it ended", "message": last_line}
    return failure


def kernel_environment(folder: Path, settings: Settings) -> dict[str, str]:
    """Return the environment variables for a worker and its kernel."""
    threads = max(1, (os.cpu_count() or 1) // settings.jobs)
    places = {name: os.environ.get(name) for name in ("GAN_TUTORIAL_DATA", "GAN_TUTORIAL_CACHE")}
    # absolute, because the kernel runs in another folder than we do
    absolute = {name: str(Path(place).expanduser().resolve()) for name, place in places.items() if place}
    return (
        os.environ
        | absolute
        | {
            "OMP_NUM_THREADS": str(threads),
            "GAN_TUTORIAL_FIGURES": str((folder / "figures").resolve()),
            "GAN_TUTORIAL_PROFILE": settings.profile,
        }
    )


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


def keep(task: Task, executed: NotebookNode, figures: Path, settings: Settings) -> None:
    """Keep an executed notebook and its figures; a failed one beside the last good one, under another name."""
    normalise(executed)
    task.accuracies = {m["variant"]: m["accuracy"] for _, _, m in marks(executed) if "accuracy" in m}
    folder = settings.output / "notebooks"
    good, failed = folder / task.notebook.name, folder / f"{task.name}.failed.ipynb"
    if task.problem:
        write_text(failed, nbformat.writes(executed) + "\n")
        return
    for figure in figures.iterdir():
        figure.replace(settings.output / "figures" / figure.name)
    write_text(good, nbformat.writes(executed) + "\n")
    failed.unlink(missing_ok=True)
    update_manifest(task, executed, settings)


def normalise(notebook: NotebookNode) -> None:
    """Take out what differs from run to run: papermill's notes, times, the kernel's version, how text was cut."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"  # papermill draws one at random
        if not cell.metadata.get("tags", ["any"]):
            del cell.metadata["tags"]  # papermill gives every cell an empty list
        if cell.cell_type == "code":
            cell.outputs = join_streams(cell.outputs)


def join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of printed text: where the kernel cut it depends on the clock."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def marks(notebook: NotebookNode) -> list[tuple[int, NotebookNode, dict[str, Any]]]:
    """Return (cell number, cell, what `plots.show` or `report_accuracy` noted) for each output that has such a note."""
    return [
        (number, cell, dict(output.metadata["gan_tutorial"]))
        for number, cell in enumerate(notebook.cells, start=1)
        if cell.cell_type == "code"
        for output in cell.outputs
        if "gan_tutorial" in output.get("metadata", {})
    ]


def update_manifest(task: Task, executed: NotebookNode, settings: Settings) -> None:
    """Replace what ``figures/manifest.json`` says of a notebook's figures, and remove those it no longer makes."""
    folder = settings.output / "figures"
    file = folder / "manifest.json"
    old = json.loads(file.read_text(encoding="utf-8"))["figures"] if file.exists() else []
    new = [figure_entry(task, settings, *mark) for mark in marks(executed) if "figure" in mark[2]]
    names = {entry["png"] for entry in new}
    for entry in old:
        if entry["notebook"] == task.name and entry["png"] not in names:
            for key in ("png", "svg"):
                (folder / entry[key]).unlink(missing_ok=True)
    others = [entry for entry in old if entry["notebook"] != task.name and entry["png"] not in names]
    entries = sorted(others + new, key=lambda entry: entry["png"])
    write_text(file, json.dumps({"figures": entries}, indent=1, ensure_ascii=False) + "\n")


def figure_entry(
    task: Task, settings: Settings, number: int, cell: NotebookNode, mark: dict[str, str]
) -> dict[str, Any]:
    """Return all that is to be known of one figure; null where the notebook has no such parameter."""
    png = settings.output / "figures" / f"{mark['figure']}.png"
    data = settings.data_name if "data_source" in task.parameters else None
    return {
        "png": png.name,
        "svg": f"{mark['figure']}.svg",
        "notebook": task.name,
        "cell": number,
        "cell_id": cell.id,
        "alt": mark["alt"],
        "seed": task.seed,
        "profile": settings.profile,
        "data": data,
        "data_sha256": DATA_SHA256.get(data or ""),
        "device": task.parameters.get("device_name"),
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
    rows = [("notebook", "time", "accuracy", "result")]
    for task in tasks:
        accuracies = ", ".join(f"{variant} {value:.2%}" for variant, value in task.accuracies.items())
        rows.append((task.name, f"{task.seconds:.0f} s", accuracies, task.problem or "ok"))
    first, second, third, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{a:{first}}  {b:>{second}}  {c:{third}}  {d}" for a, b, c, d in rows)


def put_back(tasks: list[Task], output: Path, times: Path = TIMES) -> None:
    """Replace the notebooks by their executed forms, with the recorded running time, without the injected cell."""
    for task in tasks:
        executed = nbformat.read(output / "notebooks" / task.notebook.name, as_version=4)
        executed.cells = [c for c in executed.cells if "injected-parameters" not in c.metadata.get("tags", [])]
        code_cells = (cell for cell in executed.cells if cell.cell_type == "code" and cell.execution_count is not None)
        for count, cell in enumerate(code_cells, start=1):
            cell.execution_count = count
            for result in cell.outputs:
                if result.output_type == "execute_result":
                    result.execution_count = count
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
