"""What a run keeps: executed notebooks, figures with their manifest, times, a table."""

import hashlib
import json
import math
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import nbstripout
from nbformat import NotebookNode

from gan_tutorial._sources import replacing
from gan_tutorial.data import MNIST, SAMPLE
from gan_tutorial.plots import MARK
from gan_tutorial.tools.tasks import Settings, Task

TIMES = "times.json"  # in the output folder, when a run has come to its end: its conditions, and each notebook's time
DATA_SHA256 = {  # `MnistDataset.sha256` of the training images, by the name of the data
    MNIST: "a454de301763d749ccfd1ebb5add77d549bcd2125320df72efaa88e014fca0f0",
    SAMPLE: "9d79f8acfa60994da6a5110ad5c7657095d09db20f8eccddf348fb9d6944f25e",
}
_KEYS = "metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.language_info.version"  # vary
_NOTES = {"figure": ("alt",), "accuracy": ("variant", "expected"), "frechet": ("gan", "limit")}  # kind: what it tells


def keep(task: Task, executed: NotebookNode, figures: Path, settings: Settings) -> None:
    """Keep an executed notebook and its figures; a failed one beside the last good one, under another name.

    What is known of the figures goes into the notebook's metadata, and from those of all notebooks into the manifest.
    """
    task.problem = task.problem or _wrong_note(executed, figures, settings)
    nbstripout.strip_output(executed, keep_output=True, keep_count=True, keep_id=True, extra_keys=_KEYS.split())
    for cell in executed.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"  # papermill draws one at random
    good = settings.output / "notebooks" / task.notebook.name
    failed = good.with_suffix(".failed.ipynb")
    if task.problem:
        write_text(failed, nbformat.writes(executed))
        return
    task.results = results(executed)
    entries = [_figure_entry(task, settings, figures, *mark) for mark in marks(executed) if "figure" in mark[2]]
    executed.metadata[MARK] = {"figures": entries}
    before = _figures_of_kept(good)
    for figure in figures.glob("*"):
        figure.replace(settings.output / "figures" / figure.name)
    write_text(good, nbformat.writes(executed))
    failed.unlink(missing_ok=True)
    _write_manifest(settings.output, before)


def write_text(file: Path, text: str) -> None:
    """Write a text in UTF-8 and a line end, whole or not at all; DataError if it cannot be written."""
    with replacing(file) as unfinished:
        unfinished.write(f"{text}\n".encode())


def marks(notebook: NotebookNode) -> list[tuple[int, NotebookNode, dict[str, Any]]]:
    """Return (cell number, cell, note) for each output with a note of `show`, `report_accuracy` or `report_gan`."""
    return [
        (number, cell, dict(output.metadata[MARK]))
        for number, cell in enumerate(notebook.cells, start=1)
        if cell.cell_type == "code"
        for output in cell.outputs
        if MARK in output.get("metadata", {})
    ]


def _wrong_note(executed: NotebookNode, figures: Path, settings: Settings) -> str:
    """Return what is wrong with the first note that cannot be right, or an empty string.

    In a full run on all of MNIST with the notebook's own parameters a network without a recorded band is wrong, too.
    """
    for number, _, note in marks(executed):
        place = f"failed in cell {number}"
        kind = next((kind for kind in _NOTES if kind in note), "figure")
        if missing := [field for field in (kind, *_NOTES[kind]) if field not in note]:
            return f"{place}: the note of an output lacks {', '.join(missing)}"
        if kind == "figure":
            if not all((figures / f"{note[kind]}.{ending}").is_file() for ending in ("png", "svg")):
                return f"{place}: the files of its figure {note[kind]} are missing"
            continue
        subject, band = (note[field] for field in _NOTES[kind])
        if not math.isfinite(float(note[kind])):  # a kernel sends NaN as text
            return f"{place}: the {kind} of {subject} is {note[kind]}"
        if band is None and settings.comparable:
            return f"{place}: no band is recorded for the {kind} of {subject}"
    return ""


def results(notebook: NotebookNode) -> list[str]:
    """Return in words what training came to: each network's accuracy, and of all GANs the nearest to real images."""
    notes = [note for _, _, note in marks(notebook)]
    accuracies = {note["variant"]: note["accuracy"] for note in notes if "accuracy" in note}  # of two the later counts
    gans = {note["gan"]: note["frechet"] for note in notes if "frechet" in note}
    nearest = [f"Fréchet {gans[name]:.1f} ({name})" for name in sorted(gans, key=lambda name: gans[name])[:1]]
    return [f"{name} {accuracy:.2%}" for name, accuracy in accuracies.items()] + nearest


def _figure_entry(
    task: Task, settings: Settings, figures: Path, number: int, cell: NotebookNode, note: dict[str, str]
) -> dict[str, Any]:
    """Return all that is to be known of one figure; null where the notebook has no such parameter."""
    png = f"{note['figure']}.png"
    data = settings.data_name if "data_source" in task.parameters else None
    return {
        "png": png,
        "svg": f"{note['figure']}.svg",
        "notebook": task.name,
        "cell": number,
        "cell_id": cell.id,
        "alt": note["alt"],
        "seed": task.parameters.get("seed"),
        "profile": settings.profile,
        "data": data,
        "data_sha256": DATA_SHA256.get(data or ""),
        "device": task.parameters.get("device_name"),
        "versions": _versions(),
        "sha256": hashlib.sha256((figures / png).read_bytes()).hexdigest(),
    }


def _figures_of_kept(notebook: Path) -> list[dict[str, Any]]:
    """Return what a kept notebook says of its figures: nothing where it is damaged or not there."""
    try:
        return json.loads(notebook.read_bytes())["metadata"][MARK]["figures"]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _write_manifest(output: Path, before: list[dict[str, Any]]) -> None:
    """Write ``figures/manifest.json`` anew, and remove those of the figures ``before`` that no notebook makes now."""
    kept = (output / "notebooks").glob("*.ipynb")
    entries = {entry["png"]: entry for notebook in kept for entry in _figures_of_kept(notebook)}
    figures = [entries[png] for png in sorted(entries)]
    write_text(output / "figures" / "manifest.json", json.dumps({"figures": figures}, indent=1, ensure_ascii=False))
    for gone in (entry for entry in before if entry["png"] not in entries):
        for key in ("png", "svg"):
            (output / "figures" / gone[key]).unlink(missing_ok=True)


def write_times(tasks: list[Task], settings: Settings) -> None:
    """Write what each notebook took and under which conditions, for `docs/refresh.py` to read."""
    conditions = asdict(settings) | {"output": None, "versions": _versions(), "date": time.strftime("%Y-%m-%d")}
    notebooks = {task.name: {"seconds": round(task.seconds, 1), "problem": task.problem} for task in tasks}
    write_text(settings.output / TIMES, json.dumps(conditions | {"notebooks": notebooks}, indent=1))


def _versions() -> dict[str, str]:
    """Return the versions that the look of a figure depends on."""
    packages = ("gan_tutorial", "torch", "numpy", "matplotlib")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def table(tasks: list[Task]) -> str:
    """Return a line for each notebook: name, time, results of training, and whether it ran."""
    rows = [("notebook", "time", "result of training", "run")]
    for task in tasks:
        rows.append((task.name, f"{task.seconds:.0f} s", ", ".join(task.results), task.problem or "ok"))
    first, second, third, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{a:{first}}  {b:>{second}}  {c:{third}}  {d}" for a, b, c, d in rows)


def figures_of(notebooks: Iterable[Path]) -> dict[str, tuple[str, str]]:
    """Return the figures that stored notebooks show: name to (notebook, alternative text)."""
    found = ((path, note) for path in notebooks for _, _, note in marks(nbformat.read(path, as_version=4)))
    return {note["figure"]: (path.stem, note["alt"]) for path, note in found if "figure" in note}
