"""The commands ``run`` and ``figures``: notebooks, several at once, each in a kernel process of its own."""

import contextlib
import difflib
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import nbstripout
import papermill
import psutil
from filelock import AcquireReturnProxy, FileLock, Timeout
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from gan_tutorial._sources import CACHE_VARIABLE, FOLDER_VARIABLE, DataError, replacing
from gan_tutorial.data import MNIST, SAMPLE, notice, resolve_source
from gan_tutorial.device import choose_device
from gan_tutorial.plots import FIGURES_VARIABLE, MARK
from gan_tutorial.records import RESULTS, TIMES, read_table
from gan_tutorial.tools import checkout
from gan_tutorial.training import IMAGES_PER_EPOCH, PROFILE_VARIABLE

RUN_FILE = "times.json"  # in the output folder, when a run has ended: its conditions, and each notebook's time
_INJECTED = "injected-parameters"
_ADDED = {_INJECTED, "papermill-error-cell-tag"}  # tags of the cells that papermill puts in
_VARYING = "metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.language_info.version"
_TRUTH = {"true": True, "false": False}
_TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "bool": lambda t: _TRUTH[t.lower()]}


class RunError(Exception):
    """What keeps a run or a notebook from success: what was wrong, and what there is to choose from."""


@dataclass
class Task:
    """One notebook to run, and what has become of it."""

    notebook: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    problem: str = ""  # why it failed; empty if it did not
    results: list[str] = field(default_factory=list)  # what its networks came to, in words


def run_command(options: Namespace) -> int:
    """Run notebooks; return 1 if one of them failed."""
    given = dict(options.parameters)
    notebooks = choose_notebooks(options.names, options.notebooks)
    make_tasks(notebooks, given, {})  # a wrong parameter is told before anything is fetched
    if given and not options.output:  # they must not replace the course's own results
        folder = re.sub(r"[^\w.,=+-]+", "-", ",".join(f"{name}={value}" for name, value in given.items()))
        options.output = Path("build", folder[:100])
        print(f"Other parameters than the notebooks': the results go to {options.output}.")
    options.output, options.changed = options.output or Path("build"), list(given)
    options.device = str(choose_device(given.pop("device_name", options.device)))
    asked_for = given.pop("data_source", options.data)
    source = resolve_source(asked_for)
    print(notice(source, asked_for=asked_for))
    options.data_name = SAMPLE if source == "sample" else MNIST
    if source not in ("folder", "cache", "sample"):
        source = str(Path(source).expanduser().resolve())  # a kernel runs in another folder than we do
    common = {"images_per_epoch": IMAGES_PER_EPOCH[options.profile], "data_source": source}
    tasks = make_tasks(notebooks, given, common | {"device_name": options.device})
    run(tasks, options)
    return int(any(task.problem for task in tasks))


def figures_command(options: Namespace) -> int:
    """List the figures that the notebooks show, or run the notebooks of those that are named."""
    stored = [(path.stem, nbformat.read(path, as_version=4)) for path in choose_notebooks([], options.notebooks)]
    notes = [(name, note) for name, notebook in stored for _, note in marks(notebook) if "figure" in note]
    known = {note["figure"]: (name, note["alt"]) for name, note in notes}
    if unknown := [name for name in options.figures if name not in known]:
        similar = ", ".join(difflib.get_close_matches(unknown[0], known)) or "none"
        raise RunError(f"There is no figure {unknown[0]!r}. Similar: {similar}. `gan-tutorial figures` lists them all.")
    if not options.figures:
        print("\n".join(f"{figure}  ({name})  {alt}" for figure, (name, alt) in known.items()))
        return 0
    options.names, options.parameters = [known[figure][0] for figure in options.figures], []
    return run_command(options)


def choose_notebooks(names: Iterable[str], folder: Path | None = None) -> list[Path]:
    """Return the notebooks called ``names`` (``03``, ``03_baseline_ann`` or a path); all of them if none is named."""
    if not (folder := folder or ((root := checkout()) and root / "notebooks")):
        advice = "name their folder, which comes with the course's repository, with --notebooks."
        raise RunError(f"The notebooks are no part of the package: {advice}")
    everything = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not everything:
        raise RunError(f"There is no notebook in {folder}: none is named like 03_baseline_ann.ipynb.")
    chosen: set[Path] = set()
    for name in names:
        place = Path(name).resolve()
        fitting = {p for p in everything if name in (p.stem[:2], p.stem, p.name) or place == p.resolve()}
        if not fitting:
            choices = ", ".join(path.stem for path in everything)
            raise RunError(f"There is no notebook {name!r} in {folder.name}. Choose from: {choices}.")
        chosen |= fitting
    return sorted(chosen) or everything


def make_tasks(notebooks: list[Path], given: dict[str, str], common: dict[str, Any]) -> list[Task]:
    """Return a task for each notebook; one that cannot be read has a problem.

    What is in ``common``, and the notebook's own seed, is set where it is declared; so is what is ``given``, as text.
    """
    for library in ("papermill", "asyncio"):  # the latter complains of what a dead kernel or a time limit leaves
        logging.getLogger(library).setLevel(logging.CRITICAL)  # what a user has to know, the run says itself
    tasks: list[Task] = []
    known: set[str] = set()
    for path in notebooks:
        try:
            declared = papermill.inspect_notebook(path)
        except Exception as problem:  # whatever is wrong with the file
            tasks.append(Task(path, problem=f"cannot be read as a notebook: {_first_line(problem)}"))
            continue
        own_seed = declared.get("seed", {}).get("default", "")
        values = common | ({"seed": int(own_seed)} if own_seed.isdigit() else {})
        values |= {n: parse_value(n, given[n], declared[n]["inferred_type_name"]) for n in given if n in declared}
        tasks.append(Task(path, {name: values[name] for name in declared if name in values}))
        known.update(declared)
    if unknown := [name for name in given if name not in known]:
        close = "".join(f" Did you mean {name}?" for name in difflib.get_close_matches(unknown[0], known, n=1))
        choices = ", ".join(sorted(known)) or "none"
        raise RunError(f"There is no parameter {unknown[0]!r} in the notebooks chosen.{close} Known: {choices}.")
    return tasks


def parse_value(name: str, text: str, kind: str) -> Any:
    """Return the value of a parameter, given as text, in the type that the notebook declares for it."""
    if kind not in _TYPES:
        advice = f"is one of: {', '.join(_TYPES)}. Write `{name}: int = ...` there."
        raise RunError(f"The notebook does not say that its parameter {name} {advice}")
    try:
        return _TYPES[kind](text)
    except (KeyError, ValueError):
        raise RunError(f"The parameter {name} is of type {kind}; {text!r} is not.") from None


def _first_line(problem: Exception) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(problem).__name__}: {problem}".splitlines()[0][:300]


def run(tasks: list[Task], options: Namespace) -> None:
    """Run all tasks, ``options.jobs`` at once, note in each what became of it, and show that in a table."""
    waiting = longest_first([task for task in tasks if not task.problem], options.profile)
    form = "{n_fmt} of {total_fmt} notebooks |{bar:20}| {elapsed}"  # disable=None: a bar on terminals only
    scratch = options.output / ".running"
    with _lock(options.output, scratch):
        pool = ThreadPoolExecutor(options.jobs)
        futures = {pool.submit(_execute, task, scratch / task.notebook.stem, options): task for task in waiting}
        pending = set(futures)
        try:
            with tqdm(total=len(futures), file=sys.stdout, bar_format=form, disable=None, leave=False) as bar:
                while pending:
                    # An endless wait would not hear Ctrl-C on Windows, nor would the bar's clock tick.
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        _finish(futures[future], future, scratch, options)
                    bar.update(len(done))
                    bar.refresh()
        finally:
            _stop(pool, futures)
            shutil.rmtree(scratch, ignore_errors=True)
        _report(tasks, options)


def _lock(output: Path, scratch: Path) -> AcquireReturnProxy:
    """Make ``output``, keep all other runs out of it until this one ends, and remove what a dead one left there."""
    try:
        for folder in ("notebooks", "figures"):
            (output / folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / "run.lock").acquire(blocking=False)
        (output / RUN_FILE).unlink(missing_ok=True)  # it is not that of what comes now
    except Timeout:
        raise RunError(f"Another run uses the folder {output}: wait for its end, or name another --output.") from None
    except OSError as problem:
        raise RunError(f"The output folder cannot be used: {problem}. Name another with --output.") from None
    shutil.rmtree(scratch, ignore_errors=True)
    return lock


def longest_first(tasks: list[Task], profile: str) -> list[Task]:
    """Sort by the recorded times, those of which none is recorded first: then all end together."""
    times = read_table(RESULTS / "times.csv", TIMES).query("profile == @profile").set_index("notebook")["seconds"]
    return sorted(tasks, key=lambda task: -times.get(task.notebook.stem, math.inf))


def _execute(task: Task, made: Path, options: Namespace) -> NotebookNode:
    """Run a notebook, whose figures go to ``made``; return its executed form, and note in the task why it failed."""
    tqdm.write(f"{task.notebook.stem}: started")
    began = time.monotonic()
    made.mkdir(parents=True)
    # Plain names, for papermill writes its paths as UTF-8 text; beside ``made``, which a notebook may remove.
    source, output = (made.parent / f"{id(task)}.{kind}.ipynb" for kind in ("source", "executed"))
    shutil.copyfile(task.notebook, source)
    started, reason = _run_cells(task, (source, output), made, options)
    if not started and reason:  # now and then a kernel does not start
        started, reason = _run_cells(task, (source, output), made, options)
    task.seconds = time.monotonic() - began
    if not output.exists():
        raise RunError(f"failed: {reason}")
    executed = nbformat.read(output, as_version=4)
    task.problem = _failure(executed, "".join(started[-1:]), reason)
    return executed


def _kernel_class(environment: dict[str, str]) -> type[AsyncKernelManager]:
    """Return the class of a kernel of this very Python, whatever kernels are installed."""

    class Kernel(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **options)

        def start_kernel(self, **options: Any) -> Any:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # what is written past IPython
            return super().start_kernel(**options, **quiet, env=environment)

    return Kernel


def _run_cells(task: Task, paths: tuple[Path, Path], made: Path, options: Namespace) -> tuple[list[str], str]:
    """Run all cells in a new kernel; return the ids of those that were started, and why that came to an early end."""
    started: list[str] = []
    try:
        papermill.execute_notebook(
            *map(str, paths),
            task.parameters,
            resources={"metadata": {"path": str(task.notebook.parent)}},  # its `cwd` is that of all threads
            kernel_name="python3",
            kernel_manager_class=_kernel_class(_environment(made, options.profile)),
            progress_bar=False,
            execution_timeout=options.timeout,
            iopub_timeout=60,  # the default, 4 seconds, is too short on a busy machine
            coalesce_streams=True,  # where the kernel cuts printed text depends on the clock
            on_cell_start=lambda cell, cell_index: started.append(cell.id),
        )
    except PapermillExecutionError:
        return started, ""  # the cell holds it
    except DeadKernelError:
        return started, "the kernel died (see `gan-tutorial doctor`)"
    except CellTimeoutError:
        return started, "the time limit of a cell has passed (see --timeout)"
    except Exception as problem:
        return started, _first_line(problem)
    return started, ""


def _failure(executed: NotebookNode, last: str, reason: str) -> str:
    """Return one line on what failed, and in which cell: for ``reason`` the ``last`` one that was started.

    Without a reason each cell has to have been run and to hold no error: papermill lets ``sys.exit(0)`` pass.
    """
    number = 0
    for cell in executed.cells:
        added = _ADDED & set(cell.metadata.get("tags", []))
        number += not added
        wrong = reason * (cell.id == last) if reason else _wrong(cell)
        if wrong:
            place = "" if added else f" in cell {number} ({cell.source.strip().splitlines()[0][:60]})"
            return f"failed{place}: {wrong}".splitlines()[0]
    return f"failed: {reason}" if reason else ""


def _wrong(cell: NotebookNode) -> str:
    """Return what is wrong with a cell that papermill has passed, or an empty string."""
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            return f"{output.ename}: {output.evalue.strip()}"
    if cell.metadata.get("papermill", {}).get("exception"):  # a magic that does not exist tells it in a stream
        return "".join(output.get("text", "") for output in cell.outputs).strip()
    if cell.get("execution_count", 0) is None and cell.source.strip():
        return "the cell was left unrun; did one before it end the kernel?"
    return ""


def _environment(figures: Path, profile: str) -> dict[str, str]:
    """Return the environment variables of a kernel."""
    own = {FIGURES_VARIABLE: str(figures.resolve()), PROFILE_VARIABLE: profile}
    own |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}  # more threads, other last bits
    for variable in (FOLDER_VARIABLE, CACHE_VARIABLE):
        place = os.environ.get(variable)
        if place and (variable, place) != (FOLDER_VARIABLE, "sample"):
            own[variable] = str(Path(place).expanduser().resolve())  # the kernel runs in another folder than we do
    return os.environ | own


def _finish(task: Task, future: Future[NotebookNode], scratch: Path, options: Namespace) -> None:
    """Keep what a notebook made; a failed one beside the last good one, under another name."""
    name = task.notebook.stem
    try:
        executed = future.result()
        if not task.problem:
            keep(task, executed, scratch / name, options)
    except Exception as problem:  # whatever one notebook leaves behind, the others go on
        task.problem = str(problem) if isinstance(problem, RunError) else f"failed: {_first_line(problem)}"
    if task.problem and not future.exception():
        with contextlib.suppress(DataError):
            write_text(options.output / "notebooks" / f"{name}.failed.ipynb", nbformat.writes(future.result()))
    tqdm.write(f"{name}: {task.problem or 'done'} ({task.seconds:.0f} s)")


def _stop(pool: ThreadPoolExecutor, futures: Iterable[Future[NotebookNode]]) -> None:
    """Kill every kernel and what it has started, until nothing runs any more, or for ten seconds."""
    pool.shutdown(wait=False, cancel_futures=True)
    end = time.monotonic() + 10
    while wait(futures, timeout=0.1).not_done and time.monotonic() < end:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def keep(task: Task, executed: NotebookNode, made: Path, options: Namespace) -> None:
    """Keep an executed notebook and the figures that it ``made``; what is wrong with them is raised.

    What is known of the figures goes into the notebook's metadata, and from those of all notebooks into the manifest.
    """
    conditions = {  # null where the notebook has no such parameter
        "seed": task.parameters.get("seed"),
        "profile": options.profile,
        "data": options.data_name if "data_source" in task.parameters else None,
        "device": task.parameters.get("device_name"),
        "versions": _versions(),
    }
    nbstripout.strip_output(executed, keep_output=True, keep_count=True, keep_id=True, extra_keys=_VARYING.split())
    for cell in executed.cells:
        if _INJECTED in cell.metadata.get("tags", []):
            cell.id = _INJECTED  # papermill draws one at random
    entries = []
    for cell, note in marks(executed):
        _check_result(note, options)
        if "figure" in note:
            png, svg = (made / f"{note['figure']}.{ending}" for ending in ("png", "svg"))
            files = {"png": png.name, "svg": svg.resolve(strict=True).name}  # strict: a missing file is an error
            what = {"cell_id": cell.id, "alt": note["alt"], "sha256": hashlib.sha256(png.read_bytes()).hexdigest()}
            entries.append(files | what | conditions)
    executed.metadata[MARK] = {"figures": entries}
    good = options.output / "notebooks" / task.notebook.name
    write_text(good, nbformat.writes(executed))  # a full disk shows here, before figures are replaced
    for name in {entry[ending] for entry in entries for ending in ("png", "svg")}:
        (made / name).replace(options.output / "figures" / name)
    good.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    _write_manifest(options.output, task.notebook.stem[:3])
    task.results = results(executed)


def write_text(file: Path, text: str) -> None:
    """Write a text in UTF-8 and a line end, whole or not at all; DataError if it cannot be written."""
    with replacing(file) as unfinished:
        unfinished.write(f"{text}\n".encode())


def marks(notebook: NotebookNode) -> list[tuple[NotebookNode, dict[str, Any]]]:
    """Return (cell, note) for each output with a note of `show`, `report_accuracy` or `report_gan`."""
    outputs = ((cell, output) for cell in notebook.cells for output in cell.get("outputs", []))
    return [(cell, dict(output.metadata[MARK])) for cell, output in outputs if MARK in output.get("metadata", {})]


def _check_result(note: dict[str, Any], options: Namespace) -> None:
    """Raise a RunError for a result that is no number, or that has to lie in a recorded band and there is none."""
    if "figure" in note:
        return
    kind, named, band = ("frechet", "gan", "limit") if "gan" in note else ("accuracy", "variant", "expected")
    if not math.isfinite(float(note[kind])):  # a kernel sends NaN as text
        raise RunError(f"failed: the {kind} of {note[named]} is {note[kind]}")
    if note[band] is None and (options.profile, options.data_name, options.changed) == ("full", MNIST, []):
        raise RunError(f"failed: no band is recorded for the {kind} of {note[named]}")


def results(notebook: NotebookNode) -> list[str]:
    """Return in words what training came to: each network's accuracy, and of all GANs the nearest to real images."""
    notes = [note for _, note in marks(notebook)]
    accuracies = {note["variant"]: note["accuracy"] for note in notes if "accuracy" in note}  # of two the later counts
    gans = {note["gan"]: note["frechet"] for note in notes if "frechet" in note}
    nearest = [f"Fréchet {gans[name]:.1f} ({name})" for name in sorted(gans, key=lambda name: gans[name])[:1]]
    return [f"{name} {accuracy:.2%}" for name, accuracy in accuracies.items()] + nearest


def _versions() -> dict[str, str]:
    """Return the versions that the look of a figure depends on."""
    packages = ("gan_tutorial", "torch", "numpy", "matplotlib")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _write_manifest(output: Path, number: str) -> None:
    """Write ``manifest.json`` anew, and remove figures whose name begins with ``number`` that no notebook makes now."""
    entries = []
    for notebook in sorted((output / "notebooks").glob("*.ipynb")):
        try:
            figures = json.loads(notebook.read_bytes())["metadata"][MARK]["figures"]
            entries += [{"notebook": notebook.stem} | entry for entry in figures]
        except (ValueError, KeyError, TypeError):
            continue  # damaged, failed or foreign
    write_text(output / "figures" / "manifest.json", json.dumps({"figures": entries}, indent=1))
    known = {entry[ending] for entry in entries for ending in ("png", "svg")}
    for figure in (output / "figures").glob(f"{number}*.[ps][nv]g"):
        if figure.name not in known:
            figure.unlink()


def _report(tasks: list[Task], options: Namespace) -> None:
    """Show a table of name, time, results of training and success; write `RUN_FILE` for ``docs/refresh.py`` to read."""
    rows = [("notebook", "time", "result of training", "run")]
    for task in tasks:
        rows.append((task.notebook.stem, f"{task.seconds:.0f} s", ", ".join(task.results), task.problem or "ok"))
    first, second, third, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    for a, b, c, d in rows:
        print(f"{a:{first}}  {b:>{second}}  {c:{third}}  {d}")
    conditions = {name: getattr(options, name) for name in ("profile", "data_name", "device", "jobs", "changed")}
    conditions |= {"versions": _versions(), "date": time.strftime("%Y-%m-%d")}
    times = {task.notebook.stem: {"seconds": round(task.seconds, 1), "problem": task.problem} for task in tasks}
    write_text(options.output / RUN_FILE, json.dumps(conditions | {"notebooks": times}, indent=1))
