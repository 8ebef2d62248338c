"""What a run keeps: executed notebooks, figures with their manifest, running times, a table."""

import csv
import hashlib
import json
import math
import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from gan_tutorial.plots import MARK
from gan_tutorial.records import RESULTS
from gan_tutorial.tools.tasks import NOTEBOOKS, Settings, Task

README = Path(__file__).parents[2] / "README.md"
TIMES = RESULTS / "times.csv"
DATA_SHA256 = {  # `MnistDataset.sha256` of the training images, by the name of the data
    "MNIST": "a454de301763d749ccfd1ebb5add77d549bcd2125320df72efaa88e014fca0f0",
    "MNIST sample": "9d79f8acfa60994da6a5110ad5c7657095d09db20f8eccddf348fb9d6944f25e",
}
VERSIONED = ("gan_tutorial", "torch", "numpy", "matplotlib")  # what the look of a figure depends on


def keep(task: Task, executed: NotebookNode, figures: Path, settings: Settings) -> None:
    """Keep an executed notebook and its figures; a failed one beside the last good one, under another name."""
    normalise(executed)
    task.results = results(executed)
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
    """Return (cell number, cell, note) for each output with a note of `show`, `report_accuracy` or `report_gan`."""
    return [
        (number, cell, dict(output.metadata[MARK]))
        for number, cell in enumerate(notebook.cells, start=1)
        if cell.cell_type == "code"
        for output in cell.outputs
        if MARK in output.get("metadata", {})
    ]


def results(notebook: NotebookNode) -> list[str]:
    """Return in words what training came to: each network's accuracy, and of all GANs the nearest to real images."""
    notes = [note for _, _, note in marks(notebook)]
    accuracies = {note["variant"]: note["accuracy"] for note in notes if "accuracy" in note}  # of two the later counts
    gans = {note["gan"]: note["frechet"] for note in notes if "frechet" in note}
    nearest = [f"Fréchet {gans[name]:.1f} ({name})" for name in sorted(gans, key=lambda name: gans[name])[:1]]
    return [f"{name} {accuracy:.2%}" for name, accuracy in accuracies.items()] + nearest


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
    """Return a line for each notebook: name, time, results of training, and whether it ran."""
    rows = [("notebook", "time", "result of training", "run")]
    for task in tasks:
        rows.append((task.name, f"{task.seconds:.0f} s", ", ".join(task.results), task.problem or "ok"))
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
    """Keep how long each notebook took, with the conditions, as rows of ``gan_tutorial/results/times.csv``."""
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
    """Return the rows of ``gan_tutorial/results/times.csv``."""
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


def fill_readme(readme: Path = README, notebooks: Path = NOTEBOOKS, times: Path = TIMES) -> None:
    """Write each notebook's recorded running time and shown results at the end of its row in the README's table."""
    lines = readme.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if not (named := re.match(r"\| \[(\w+)\]\(notebooks/", line)):
            continue
        shown = ", ".join(results(nbformat.read(notebooks / f"{named[1]}.ipynb", as_version=4)))
        seconds = [
            row["seconds"] for row in read_times(times) if (row["notebook"], row["profile"]) == (named[1], "full")
        ]
        topic = line.split(" | ")[1]
        lines[number] = f"{line.split(' | ')[0]} | {topic} | {about(float(seconds[0])) if seconds else ''} | {shown} |"
    write_text(readme, "\n".join(lines) + "\n")


def about(seconds: float) -> str:
    """Return a time rounded up: to 10 seconds below two minutes, else to minutes."""
    if seconds > 110:
        return f"{math.ceil(seconds / 60)} minutes"
    return f"{max(math.ceil(seconds / 10), 1) * 10} seconds"
