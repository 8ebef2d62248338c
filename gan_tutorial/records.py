"""Results over seeds: their tables read strictly, rows added to them, and bands of accuracy (notebooks 03 to 10)."""

import csv
import io
import math
import platform
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from filelock import FileLock

from gan_tutorial._sources import replacing
from gan_tutorial.data import MnistDataset
from gan_tutorial.device import check_counts
from gan_tutorial.plots import show_marked


class Table(NamedTuple):
    """What a CSV file of results holds: its columns in order, and those that tell its rows apart."""

    columns: list[str]
    key: list[str]


RESULTS = Path(__file__).parent / "results"
BANDS_FILE = RESULTS / "bands.csv"
SETTINGS = ["variant", "data", "epochs", "images_per_epoch"]
KEY = [*SETTINGS, "seed"]  # what makes a run the same run
CONDITIONS = ["data_sha256", "device", "machine", "threads", "python", "torch"]
STUDY = Table([*KEY, "epoch", "accuracy", "loss", *CONDITIONS, "seconds"], [*KEY, "epoch"])
BANDS = Table([*SETTINGS, "low", "high", "origin"], SETTINGS)
_TASK = ["notebook", "profile"]
TIMES = Table([*_TASK, "seconds", "data", "device", "jobs", "cores", "machine", "torch", "date"], _TASK)
# What a cell has to be, as a pattern of the whole cell and in words, for the columns that follow; in others, text.
_KINDS = {
    (r"[1-9]\d{0,14}", "a whole number above 0"): "epochs images_per_epoch epoch images_shown threads jobs cores",
    (r"\d{1,15}", "a whole number"): "seed generator discriminator digits",
    (r"-0\.0|\d+(\.\d+)?(e[+-]?\d+)?", "a number, not negative"): "seconds frechet score kl density nearness",
    (r"(\d+(\.\d+)?(e[+-]?\d+)?)?", "a number, not negative, or nothing if training diverged"): "loss",
    (r"0(\.\d+)?|1(\.0)?|\d(\.\d+)?e-\d+", "a number in 0..1"): "accuracy low high precision recall coverage copies",
    (r"(0(\.\d+)?|1(\.0)?)?", "a number in 0..1, or nothing"): "label_accuracy",
    (r"set in advance|\d+ seeds: [\d.]+ to [\d.]+", "its seeds, or 'set in advance'"): "origin",
    (r"[0-9a-f]{64}", "a SHA-256"): "data_sha256",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_OUTSIDE = """{:+.2f} percentage points off what such runs ({} epochs of {:,} images, data {}) gave. The usual causes:
  1. The network was trained twice, or by cells run in another order. Restart the kernel and run all cells.
  2. It was not built right after set_seed, or its arguments are others. Look at the cell that builds it.
  3. The data are others, or in another order. Look at the line "Data:", and run `gan-tutorial data --verify`.
If you changed something on purpose, this is your finding: keep it, and leave this check out."""


def conditions(dataset: MnistDataset) -> dict[str, object]:
    """Return what a result of training on ``dataset`` comes from: its data, this machine and its versions."""
    here = [dataset.sha256, str(dataset.images.device), platform.machine(), torch.get_num_threads()]
    return dict(zip(CONDITIONS, [*here, platform.python_version(), torch.__version__], strict=True))


def read_table(file: Path, table: Table, content: bytes | None = None) -> pd.DataFrame:
    """Return the rows of ``file``, or of the ``content`` that it shall get, which have to be as ``table`` says.

    A ValueError tells that there is no such file, or line, column, what was expected there and what to do.
    """
    texts = {name: str for name in table.columns if name not in _KIND_OF}
    try:
        content = file.read_bytes() if content is None else content
        _check_lines(content.decode(), table)
        rows = pd.read_csv(io.BytesIO(content), dtype=texts)
        wrong = {f"{', '.join(table.key)} as in an earlier line": rows.duplicated(table.key)}
        if table is STUDY:
            runs = rows.groupby(KEY)["epoch"].transform("size")
            wrong["the run lacks an epoch of 1 to `epochs`"] = (runs != rows["epochs"]) | (rows["epoch"] > runs)
        for mistake, lines in wrong.items():
            if lines.any():
                raise ValueError(f"line {lines.argmax() + 2}, {mistake}")
    except (OSError, ValueError, csv.Error) as problem:
        advice = "Take the committed file again, or leave such lines out; nothing was written."
        raise ValueError(f"{file}: {getattr(problem, 'strerror', None) or problem}. {advice}") from None
    return rows


def _check_lines(text: str, table: Table) -> None:
    """Raise a ValueError that names the first line and column which are not as ``table`` says."""
    header, *lines = csv.reader((text or "\n").splitlines(), strict=True)
    if header != table.columns:
        raise ValueError(f"line 1: expected the header {','.join(table.columns)}")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(table.columns):
            raise ValueError(f"line {number}: {len(line)} values, expected {len(table.columns)}")
        for name, cell in zip(table.columns, line, strict=True):
            pattern, words = _KIND_OF.get(name, (r"[^\x00-\x1f]+", "some text"))
            if not re.fullmatch(pattern, cell, re.ASCII):
                raise ValueError(f"line {number}, column {name}: {cell[:40]!r}, expected {words}")
    if not text.endswith("\n"):
        raise ValueError(f"line {len(lines) + 1}: cut off, expected the end of a line")


def _write(file: Path, rows: pd.DataFrame, table: Table) -> None:
    """Write a table as a whole or not at all, and nothing that `read_table` would refuse."""
    content = rows.to_csv(index=False, lineterminator="\n").encode()
    read_table(file, table, content)
    with replacing(file) as unfinished:
        unfinished.write(content)


def add_rows(file: Path, rows: pd.DataFrame, table: Table = STUDY) -> None:
    """Add all ``rows`` to a CSV file, or begin one, or change nothing; of rows with an equal key the newest stays.

    A ValueError tells that file or rows are not as ``table`` says, a DataError that the file cannot be written.
    """
    rows = rows.reindex(columns=table.columns)
    with FileLock(f"{file}.lock"):
        if file.exists():
            rows = pd.concat([read_table(file, table), rows])
        _write(file, rows.drop_duplicates(table.key, keep="last").sort_values(table.key), table)


def read_runs(*files: Path, data: str = "MNIST", epochs: int = 4, images_per_epoch: int = 60_000) -> pd.DataFrame:
    """Return the recorded runs of one setting: a row for each variant, seed and epoch (notebook 10).

    Of a run in several of the ``files`` the last one's rows count; without any, ``results/study.csv`` is read.
    A ValueError tells which settings are recorded where these are not. And see `read_table`.
    """
    tables = [read_table(file, STUDY) for file in files or (RESULTS / "study.csv",)]
    runs = pd.concat(tables).drop_duplicates(STUDY.key, keep="last")
    chosen = runs.query("data == @data and epochs == @epochs and images_per_epoch == @images_per_epoch")
    if chosen.empty:
        there = sorted(set(runs[SETTINGS[1:]].itertuples(index=False, name=None)))
        raise ValueError(f"No run is recorded for {(data, epochs, images_per_epoch)}; recorded are {there}.")
    return chosen.reset_index(drop=True)


def read_rates() -> pd.DataFrame:
    """Return the map of learning rates (notebooks 05 to 08): as `read_runs`, with columns ``network`` and ``rate``.

    Every sixth pair of training images was held out; the accuracy is that on these 10,000, never on the test images.
    """
    runs = read_runs(RESULTS / "rates.csv", data="MNIST, held out", images_per_epoch=50_000)
    parts = runs["variant"].str.split(", rate ", expand=True)
    return runs.assign(network=parts[0], rate=parts[1].astype(float))


def band(accuracies: pd.Series) -> dict[str, object]:
    """Return the band of accuracies to expect, from those of several seeds.

    The rule: from the lowest to the highest seen, widened on both sides by three standard deviations, but by at least
    one percentage point, then rounded outwards to half points.
    """
    margin = max(0.01, 3 * accuracies.std())
    low = math.floor((accuracies.min() - margin) * 200) / 200
    high = math.ceil((accuracies.max() + margin) * 200) / 200
    origin = f"{len(accuracies)} seeds: {accuracies.min():.4f} to {accuracies.max():.4f}"
    return {"low": max(low, 0.0), "high": min(high, 1.0), "origin": origin}


def write_bands(study_file: Path, file: Path, fewer_seeds: bool = False) -> None:
    """Write the bands of all settings with several seeds in ``study_file``; bands "set in advance" stay as they are.

    A ValueError tells which band would lose seeds or vanish, unless ``fewer_seeds`` is set; see `read_table`.
    """
    runs = read_table(study_file, STUDY).query("epoch == epochs").groupby(SETTINGS)["accuracy"]
    several = [dict(zip(SETTINGS, key, strict=True)) | band(seeds) for key, seeds in runs if len(seeds) > 1]
    bands = pd.DataFrame(several, columns=BANDS.columns)
    with FileLock(f"{file}.lock"):
        old = read_table(file, BANDS) if file.exists() else bands.iloc[:0]
        measured = old["origin"] != "set in advance"
        for *setting, _, _, origin in old[measured].itertuples(index=False):
            before, now = int(origin.split()[0]), runs.size().get(tuple(setting), 0)
            if now < before and not fewer_seeds:
                lost = f"the band of {', '.join(map(str, setting))} comes from {before} seeds, {study_file} holds {now}"
                raise ValueError(f"{file} stays as it is: {lost}. Train the others, or allow it with --fewer-seeds.")
        bands = pd.concat([old[~measured], bands]).drop_duplicates(SETTINGS)
        _write(file, bands.sort_values(["data", "images_per_epoch", "variant"]), BANDS)


def expected_accuracy(file: Path, *setting: str | int) -> tuple[float, float] | None:
    """Return the recorded band (low, high) of the accuracy for these `SETTINGS`, or None if none is recorded."""
    bands = read_table(file, BANDS).set_index(SETTINGS)
    return (bands["low"][setting], bands["high"][setting]) if setting in bands.index else None


def report_accuracy(
    variant: str, accuracy: float, test_data: MnistDataset, epochs: int, images_per_epoch: int, file: Path = BANDS_FILE
) -> None:
    """Show the accuracy beside the band that ``gan_tutorial/results/bands.csv`` records for these settings.

    Outside it an AssertionError is raised, after the usual causes and what to look at. A count below 1 is a ValueError.
    """
    check_counts(epochs=epochs, images_per_epoch=images_per_epoch)
    band = expected_accuracy(file, variant, test_data.name, epochs, images_per_epoch)
    text = f"{variant}: {accuracy:.2%} of {len(test_data):,} test images right"
    note = f"expected {band[0]:.1%} to {band[1]:.1%}" if band else "no band is recorded for these settings"
    show_marked({"text/plain": f"{text} ({note})"}, {"variant": variant, "accuracy": accuracy, "expected": band})
    if band and not band[0] <= accuracy <= band[1]:
        outside = accuracy - band[0] if accuracy < band[0] else accuracy - band[1]
        print(_OUTSIDE.format(100 * outside, epochs, images_per_epoch, test_data.name))
        raise AssertionError(f"{text}, but {note} on {test_data.name}. See the hints above.")
