"""A study keeps every finished run once, and goes on where it was stopped."""

import subprocess
import sys
import time

import pandas as pd
import pytest

from gan_tutorial.study import KEY, VARIANTS, add_rows, finished_runs, run_study


def test_a_study_records_every_variant_and_skips_what_it_has(tmp_path, one_thread):
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
