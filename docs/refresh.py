"""Put the outputs and running times of finished runs into the notebooks, ``times.csv`` and the README.

``python docs/refresh.py build/quick build``: folders that ``gan-tutorial run`` has written. Of every run the times are
recorded; outputs go into the notebooks only from a full run on all of MNIST. Maintainers alone need this.
"""

import hashlib
import json
import math
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbformat import NotebookNode

from gan_tutorial.data import MNIST, DataError
from gan_tutorial.plots import MARK
from gan_tutorial.records import TIMES, add_rows, read_runs, read_table
from gan_tutorial.tools.runner import RUN_FILE, RunError, results, write_text

ROOT = Path(__file__).parents[1]
TIMES_FILE = ROOT / "gan_tutorial" / "results" / "times.csv"
HASH = "code_sha256"  # under MARK in a notebook's metadata


def code_sha256(notebook: NotebookNode) -> str:
    """Return the SHA-256 of the sources of a notebook's code cells, but for one that a run put in."""
    sources = [cell.source for cell in own_cells(notebook) if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def own_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells but for the one with parameters that a run put in."""
    return [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]


def read_run(output: Path) -> dict[str, Any]:
    """Return what a run left in ``times.json``: its conditions and the seconds that each notebook took.

    Raises:
        RunError: there is no finished run, a notebook failed, or parameters were given with -p.
    """
    file = output / RUN_FILE
    if not file.exists():
        raise RunError(f"There is no {file}: no run into that folder has come to its end.")
    run = json.loads(file.read_bytes())
    if failed := [name for name, notebook in run["notebooks"].items() if notebook["problem"]]:
        raise RunError(f"In the run in {output} these notebooks failed: {', '.join(failed)}. Mend and run them again.")
    if run["changed"]:
        raise RunError(f"The run in {output} was given other parameters: {', '.join(run['changed'])}. Run without -p.")
    return run


# ---- times -----------------------------------------------------------------------------------------------------------


def record_times(run: dict[str, Any], file: Path = TIMES_FILE) -> None:
    """Put how long each notebook of a run took, with the conditions, into ``times.csv``."""
    conditions = {
        "data": run["data_name"],
        "device": run["device"],
        "jobs": run["jobs"],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": run["versions"]["torch"],
        "date": run["date"],
    }
    rows = [
        {"notebook": name, "profile": run["profile"], "seconds": notebook["seconds"]} | conditions
        for name, notebook in run["notebooks"].items()
    ]
    add_rows(file, pd.DataFrame(rows), TIMES)


def seconds_of(notebook: str, file: Path = TIMES_FILE) -> dict[str, float]:
    """Return the recorded seconds of a notebook in each profile."""
    rows = read_table(file, TIMES).query("notebook == @notebook")
    return dict(zip(rows["profile"], rows["seconds"], strict=True))


def about(seconds: float) -> str:
    """Return a time rounded up: to 10 seconds below two minutes, else to minutes."""
    if seconds > 110:
        return f"{math.ceil(seconds / 60)} minutes"
    return f"{max(math.ceil(seconds / 10), 1) * 10} seconds"


def running_time(notebook: str, file: Path = TIMES_FILE) -> str:
    """Return the line that tells a notebook's running time; empty unless both profiles are recorded."""
    seconds = seconds_of(notebook, file)
    if set(seconds) != {"full", "quick"}:
        return ""
    return f"**Running time:** {about(seconds['full'])}; in profile quick {about(seconds['quick'])}"


# ---- notebooks and README --------------------------------------------------------------------------------------------


def put_back(executed: NotebookNode, committed: NotebookNode, line: str) -> None:
    """Give a committed notebook the outputs of its executed form, cell by cell, and the hash of the code they are of.

    Text is left as it is, but for the running time, which becomes ``line`` unless that is empty.

    Raises:
        RunError: the code has changed since it was executed.
    """
    if code_sha256(executed) != code_sha256(committed):
        raise RunError("its code has changed since it was executed: run it again.")
    done = {cell.id: cell for cell in executed.cells}
    code_cells = [cell for cell in own_cells(committed) if cell.cell_type == "code" and cell.source.strip()]
    for count, cell in enumerate(code_cells, start=1):
        cell.outputs, cell.execution_count = done[cell.id].outputs, count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    committed.metadata[MARK] = {HASH: code_sha256(committed)}
    if line:
        committed.cells[0].source = re.sub(r"\*\*Running time:\*\*.*", line, committed.cells[0].source)


def put_all_back(run: dict[str, Any], output: Path, folder: Path, times: Path = TIMES_FILE) -> None:
    """Put the outputs of a run back into the notebooks of ``folder``; all of them, or none if one does not fit."""
    ready = {}
    for name in run["notebooks"]:
        file = folder / f"{name}.ipynb"
        committed = nbformat.read(file, as_version=4)
        try:
            put_back(
                nbformat.read(output / "notebooks" / file.name, as_version=4), committed, running_time(name, times)
            )
        except RunError as problem:
            raise RunError(f"{file.name}: {problem} Nothing was written.") from None
        ready[file] = nbformat.writes(committed)
    for file, text in ready.items():
        write_text(file, text)


def over_seeds(result: str) -> str:
    """Return a network's accuracy as mean and standard deviation over the recorded seeds; other results as they are."""
    name = result.rpartition(" ")[0]
    seeds = read_runs().query("variant == @name and epoch == epochs")["accuracy"]
    return f"{name} {seeds.mean():.2%} ± {100 * seeds.std():.2f}" if len(seeds) > 1 else result


def fill_readme(readme: Path, notebooks: Path, times: Path = TIMES_FILE) -> None:
    """Write each notebook's recorded running time and results at the end of its row in the README's table."""
    lines = readme.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if not (named := re.match(r"\| \[(\w+)\]\(notebooks/", line)):
            continue
        shown = ", ".join(map(over_seeds, results(nbformat.read(notebooks / f"{named[1]}.ipynb", as_version=4))))
        seconds = seconds_of(named[1], times).get("full")
        first, topic = line.split(" | ")[:2]
        lines[number] = f"{first} | {topic} | {about(seconds) if seconds else ''} | {shown} |"
    write_text(readme, "\n".join(lines))


def refresh(outputs: list[Path], root: Path = ROOT, times: Path = TIMES_FILE) -> None:
    """Record the times of all runs, and put the outputs of those that are full and on all of MNIST back."""
    runs = {output: read_run(output) for output in outputs}  # all are checked before anything is written
    for run in runs.values():
        record_times(run, times)
    for output, run in runs.items():
        if (run["profile"], run["data_name"]) == ("full", MNIST):
            put_all_back(run, output, root / "notebooks", times)
            print(f"{output}: times and outputs of {len(run['notebooks'])} notebooks stored")
        else:
            print(f"{output}: times stored; outputs are only taken from a run in profile full on all of MNIST")
    fill_readme(root / "README.md", root / "notebooks", times)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("refresh: name the folders of finished runs, such as build/quick build")
    try:
        refresh([Path(argument) for argument in sys.argv[1:]])
    except (RunError, DataError, ValueError) as problem:
        sys.exit(f"refresh: error: {problem}")
