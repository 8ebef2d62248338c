"""A study keeps every finished run once, and goes on where it was stopped."""

import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest

from gan_tutorial.study import (
    KEY,
    RESULTS,
    SETTINGS,
    VARIANTS,
    add_rows,
    finished_runs,
    run_study,
    write_bands,
)
from gan_tutorial.training import expected_accuracy


def test_a_study_records_every_variant_and_skips_what_it_has(tmp_path):
    file = tmp_path / "study.csv"
    settings = {"source": "sample", "epochs": 2, "images_per_epoch": 50}
    run_study(file, seeds=[0], **settings)
    first = file.read_bytes()
    rows = pd.read_csv(file)
    assert set(rows["variant"]) == set(VARIANTS)
    assert len(rows) == 2 * len(VARIANTS)
    assert not rows.duplicated([*KEY, "epoch"]).any()
    run_study(file, seeds=[0], **settings)
    assert file.read_bytes() == first
    run_study(file, seeds=[0, 1], **settings)
    assert len(pd.read_csv(file)) == 4 * len(VARIANTS)


def test_a_killed_study_goes_on_and_loses_or_doubles_nothing(tmp_path):
    file = tmp_path / "study.csv"
    command = (
        "from pathlib import Path; from gan_tutorial.study import run_study; import sys; "
        "run_study(Path(sys.argv[1]), 'sample', [0, 1, 2], epochs=2, images_per_epoch=200)"
    )
    study = subprocess.Popen([sys.executable, "-c", command, str(file)])
    while study.poll() is None and not file.exists():
        time.sleep(0.02)
    study.kill()
    study.wait()
    before = pd.read_csv(file)
    assert len(before) < 3 * 2 * len(VARIANTS)
    subprocess.run([sys.executable, "-c", command, str(file)], check=True)
    after = pd.read_csv(file)
    assert len(after) == 3 * 2 * len(VARIANTS)
    assert not after.duplicated([*KEY, "epoch"]).any()
    kept = after.merge(before, how="inner")  # the finished runs were not trained again: even their times are the same
    assert len(kept) == len(before)


def test_rows_without_a_key_are_refused_and_the_file_stays(tmp_path):
    file = tmp_path / "study.csv"
    add_rows(file, pd.DataFrame([dict.fromkeys([*KEY, "epoch"], 1)]))
    before = file.read_bytes()
    with pytest.raises(ValueError, match="seed"):
        add_rows(file, pd.DataFrame([{"variant": "baseline"}]))
    assert file.read_bytes() == before
    assert finished_runs(file) == {(1, 1, 1, 1, 1)}


def runs(accuracies):
    """Rows of finished runs with these accuracies, one a seed."""
    settings = {"variant": "baseline", "data": "MNIST", "epochs": 4, "images_per_epoch": 60_000}
    return pd.DataFrame([settings | {"seed": i, "epoch": 4, "accuracy": a} for i, a in enumerate(accuracies)])


def test_a_band_is_the_range_seen_widened_by_a_point_and_rounded_outwards(tmp_path):
    runs([0.881, 0.882, 0.883]).to_csv(tmp_path / "study.csv", index=False)
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert expected_accuracy("baseline", "MNIST", 4, 60_000, tmp_path / "bands.csv") == (0.87, 0.895)


def test_a_band_grows_with_the_scatter_of_the_seeds(tmp_path):
    runs([0.80, 0.82, 0.84]).to_csv(tmp_path / "study.csv", index=False)  # standard deviation 0.02
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert expected_accuracy("baseline", "MNIST", 4, 60_000, tmp_path / "bands.csv") == (0.74, 0.9)


def test_only_the_last_epoch_counts_for_a_band(tmp_path):
    early = runs([0.1, 0.2]).assign(epoch=1)
    pd.concat([early, runs([0.88, 0.88])]).to_csv(tmp_path / "study.csv", index=False)
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert expected_accuracy("baseline", "MNIST", 4, 60_000, tmp_path / "bands.csv") == (0.87, 0.89)


def test_a_band_set_in_advance_stays(tmp_path):
    stated = "variant,data,epochs,images_per_epoch,low,high,origin\nbaseline,MNIST,4,60000,0.86,0.9,set in advance\n"
    (tmp_path / "bands.csv").write_text(stated)
    runs([0.881, 0.882]).to_csv(tmp_path / "study.csv", index=False)
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert (tmp_path / "bands.csv").read_text() == stated


def test_committed_bands_are_those_of_the_committed_study(tmp_path):
    shutil.copy(RESULTS / "bands.csv", tmp_path / "bands.csv")
    write_bands(RESULTS / "study.csv", tmp_path / "bands.csv")
    assert (tmp_path / "bands.csv").read_bytes() == (RESULTS / "bands.csv").read_bytes()


def test_every_recorded_full_run_on_mnist_lies_in_its_band():
    study, bands = pd.read_csv(RESULTS / "study.csv"), pd.read_csv(RESULTS / "bands.csv")
    both = study[study["epoch"] == study["epochs"]].merge(bands, on=SETTINGS)
    assert len(both) > 0
    assert both["accuracy"].between(both["low"], both["high"]).all()
