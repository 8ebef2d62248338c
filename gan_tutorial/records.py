"""Results over seeds: read, added to a file, and the bands of accuracy that follow from them (notebooks 03 to 10)."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from filelock import FileLock

from gan_tutorial.data import MnistDataset
from gan_tutorial.plots import show_marked

RESULTS = Path(__file__).parent / "results"
BANDS_FILE = RESULTS / "bands.csv"
SETTINGS = ["variant", "data", "epochs", "images_per_epoch"]
KEY = [*SETTINGS, "seed"]  # what makes a run the same run
UNEXPECTED = """\
This is {points:.2f} percentage points {side} what runs with these settings ({settings}) gave.
The usual causes:
  1. The network was trained twice, or by cells run in another order. Restart the kernel and run all cells.
  2. It was not built right after set_seed, or its arguments are others. Look at the cell that builds it.
  3. The data are others, in another order or scaled otherwise. Look at the line that begins with "Data:",
     and run `gan-tutorial data --verify`.
If you changed something on purpose, this is your finding: keep it, and leave this check out."""


def finished_runs(file: Path) -> set[tuple]:
    """Return the keys of the runs that ``file`` holds."""
    return set(pd.read_csv(file)[KEY].itertuples(index=False, name=None)) if file.exists() else set()


def read_runs(*files: Path, data: str = "MNIST", epochs: int = 4, images_per_epoch: int = 60_000) -> pd.DataFrame:
    """Return the recorded runs of one setting: a row for each variant, seed and epoch (notebook 10).

    Args:
        files: CSV files as `run_study` writes them; of a run in several of them the last file's rows count.
            ``gan_tutorial/results/study.csv`` if none is given.
        data: the name of the data set, ``"MNIST"`` or ``"MNIST sample"``.
        epochs: how many epochs the runs had.
        images_per_epoch: images in each of their epochs.

    Raises:
        ValueError: no such run is recorded; tells which settings are.
    """
    tables = [pd.read_csv(file) for file in files or (RESULTS / "study.csv",)]
    runs = pd.concat(tables).drop_duplicates([*KEY, "epoch"], keep="last")
    wanted = {"data": data, "epochs": epochs, "images_per_epoch": images_per_epoch}
    chosen = runs[(runs[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    if chosen.empty:
        there = runs[list(wanted)].drop_duplicates().itertuples(index=False, name=None)
        raise ValueError(f"No run is recorded for {tuple(wanted.values())}; recorded are {', '.join(map(str, there))}.")
    return chosen.reset_index(drop=True)


def add_rows(file: Path, rows: pd.DataFrame, key: Sequence[str] = (*KEY, "epoch")) -> None:
    """Add ``rows`` to a CSV file so that, whatever happens, it holds all of them or none.

    Of rows with an equal ``key`` the newest stays.

    Raises:
        ValueError: a row does not say which run and epoch it belongs to.
    """
    if missing := set(key) - set(rows.columns):
        raise ValueError(f"Rows for {file.name} lack {', '.join(sorted(missing))}; nothing was written.")
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists():
            rows = pd.concat([pd.read_csv(file), rows])
        unfinished = file.with_suffix(".unfinished")
        rows.drop_duplicates(list(key), keep="last").sort_values(list(key)).to_csv(unfinished, index=False)
        unfinished.replace(file)


def band(accuracies: pd.Series) -> pd.Series:
    """Return the band of accuracies to expect, from those of several seeds.

    The rule: from the lowest to the highest seen, widened on both sides by three standard deviations, but by at least
    one percentage point, then rounded outwards to half points.
    """
    margin = max(0.01, 3 * accuracies.std())
    low = math.floor((accuracies.min() - margin) * 200) / 200
    high = math.ceil((accuracies.max() + margin) * 200) / 200
    origin = f"{len(accuracies)} seeds: {accuracies.min():.4f} to {accuracies.max():.4f}"
    return pd.Series({"low": max(low, 0.0), "high": min(high, 1.0), "origin": origin})


def write_bands(study_file: Path, bands_file: Path) -> None:
    """Write the band of every variant and setting with several seeds in ``study_file``.

    A single run shows no scatter and gives no band. Bands "set in advance" stay as they are.
    """
    study = pd.read_csv(study_file)
    last = study[study["epoch"] == study["epochs"]]
    several = last[last.groupby(SETTINGS)["seed"].transform("nunique") > 1]
    measured = pd.DataFrame(
        [
            dict(zip(SETTINGS, key, strict=True)) | dict(band(rows["accuracy"]))
            for key, rows in several.groupby(SETTINGS)
        ]
    )
    old = pd.read_csv(bands_file) if bands_file.exists() else measured.iloc[:0]
    kept = old[old["origin"].str.startswith("set in advance")]
    bands = pd.concat([kept, measured]).drop_duplicates(SETTINGS).sort_values(["data", "images_per_epoch", "variant"])
    unfinished = bands_file.with_suffix(".unfinished")
    bands.to_csv(unfinished, index=False)
    unfinished.replace(bands_file)


def expected_accuracy(
    variant: str, data_name: str, epochs: int, images_per_epoch: int, bands_file: Path = BANDS_FILE
) -> tuple[float, float] | None:
    """Return the recorded band (low, high) of the accuracy for these settings, or None if none is recorded."""
    bands = pd.read_csv(bands_file)
    settings = {"variant": variant, "data": data_name, "epochs": epochs, "images_per_epoch": images_per_epoch}
    fitting = bands[(bands[list(settings)] == pd.Series(settings)).all(axis=1)]
    return (fitting["low"].iloc[0], fitting["high"].iloc[0]) if len(fitting) else None


def report_accuracy(
    variant: str,
    accuracy: float,
    test_data: MnistDataset,
    epochs: int,
    images_per_epoch: int,
    bands_file: Path = BANDS_FILE,
) -> None:
    """Show the accuracy beside the band that ``gan_tutorial/results/bands.csv`` records for these settings.

    Outside the band, what was expected, the usual causes and what to look at are shown first.

    Raises:
        AssertionError: the accuracy lies outside the band.
    """
    band = expected_accuracy(variant, test_data.name, epochs, images_per_epoch, bands_file)
    text = f"{variant}: {accuracy:.2%} of {len(test_data):,} test images right"
    note = f"expected {band[0]:.1%} to {band[1]:.1%}" if band else "no band is recorded for these settings"
    mark = {"variant": variant, "accuracy": accuracy, "expected": band}
    show_marked({"text/plain": f"{text} ({note})"}, mark)
    if band and not band[0] <= accuracy <= band[1]:
        outside = max(band[0] - accuracy, accuracy - band[1])
        settings = f"{epochs} epochs of {images_per_epoch:,} images, data {test_data.name}"
        side = "below" if accuracy < band[0] else "above"
        print(UNEXPECTED.format(points=100 * outside, side=side, settings=settings))
        raise AssertionError(f"{text}, but {note} on {test_data.name}. See the hints above.")
