"""Run notebooks: several at once, each in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO

import nbformat
import psutil
from nbformat import NotebookNode
from tqdm import tqdm

from gan_tutorial.tools.outputs import keep
from gan_tutorial.tools.tasks import RunError, Settings, Task


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
                [sys.executable, "-m", "gan_tutorial.tools.worker"],
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
