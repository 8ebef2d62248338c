"""Tables of results are read strictly, changed as a whole or not at all; bands are what hand calculation gives."""

import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gan_tutorial._sources import DataError
from gan_tutorial.data import MnistDataset
from gan_tutorial.records import (
    BANDS,
    BANDS_FILE,
    RESULTS,
    STUDY,
    TIMES,
    add_rows,
    band,
    conditions,
    expected_accuracy,
    read_runs,
    read_table,
    report_accuracy,
    write_bands,
)

CONDITIONS = f"{'0f' * 32},cpu,x86_64,1,3.11.7,2.13.0+cpu"
HEADER = "variant,data,epochs,images_per_epoch,seed,epoch,accuracy,loss,data_sha256,device,machine,threads,python,torch"
RUN = [f"baseline,MNIST,2,60000,0,{epoch},0.92,0.05,{CONDITIONS},24.7" for epoch in (1, 2)]
BANDS_TEXT = """variant,data,epochs,images_per_epoch,low,high,origin
baseline,tiny,4,60000,0.4,0.6,set in advance
"""


def runs(accuracies, **other):
    """Rows of finished runs of one epoch with these accuracies, one a seed."""
    settings = {"variant": "baseline", "data": "MNIST", "epochs": 1, "images_per_epoch": 60_000} | other
    conditions = dict(zip(STUDY.columns[8:14], CONDITIONS.split(","), strict=True))
    rows = [{"seed": i, "epoch": 1, "accuracy": a, "loss": 0.05} for i, a in enumerate(accuracies)]
    return pd.DataFrame([settings | row | conditions | {"seconds": 24.7} for row in rows])


def write(file, *lines):
    """Write a study of these lines, its header first."""
    file.write_text("\n".join([f"{HEADER},seconds", *lines]) + "\n")
    return file


@pytest.fixture
def study(tmp_path):
    """A file with one whole run of two epochs."""
    return write(tmp_path / "study.csv", *RUN)


# ---- reading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "table"), [("study", STUDY), ("bands", BANDS), ("times", TIMES)])
def test_a_committed_table_is_read_and_written_again_to_the_same_bytes(name, table):
    file = RESULTS / f"{name}.csv"
    rows = read_table(file, table)
    assert len(rows) == file.read_text().count("\n") - 1
    assert rows.to_csv(index=False, lineterminator="\n").encode() == file.read_bytes()


def test_values_have_the_types_of_their_columns(study):
    row = read_table(write(study, *[line.replace("MNIST", "2024") for line in RUN]), STUDY).to_dict("records")[1]
    assert row["data"] == "2024"  # a user's file may be called so
    assert (row["epochs"], row["epoch"], row["accuracy"], row["loss"], row["seconds"]) == (2, 2, 0.92, 0.05, 24.7)


HALF = RUN[1][: len(RUN[1]) // 2]
BROKEN = {
    "a run that lacks its first epoch": ([RUN[1]], "line 2, the run lacks an epoch of 1 to `epochs`"),
    "a run that lacks its last epoch": ([RUN[0]], "line 2, the run lacks an epoch"),
    "an epoch too many": ([*RUN, RUN[0].replace(",0,1,", ",0,3,")], "line 2, the run lacks an epoch"),
    "a line cut in the middle": ([RUN[0], HALF], "line 3: .* values, expected 15"),
    "nan": ([RUN[0], RUN[1].replace("0.92", "nan")], "line 3, column accuracy: 'nan', expected a number in 0..1"),
    "nothing": ([RUN[0], RUN[1].replace("0.92", "")], "line 3, column accuracy: ''"),
    "a letter for a zero": ([RUN[0], RUN[1].replace("0.92", "O.92")], "line 3, column accuracy: 'O.92'"),
    "more than all": ([RUN[0], RUN[1].replace("0.92", "1.92")], "line 3, column accuracy: '1.92'"),
    "a negative loss": ([RUN[0].replace("0.05", "-0.05"), RUN[1]], "line 2, column loss: '-0.05', expected a number"),
    "infinity": ([RUN[0].replace("0.05", "inf"), RUN[1]], "line 2, column loss: 'inf'"),
    "half a seed": ([RUN[0].replace("60000,0,", "60000,0.5,"), RUN[1]], "line 2, column seed: '0.5', expected a whole"),
    "another checksum": ([RUN[0].replace("0f0f", "0f", 1), RUN[1]], "line 2, column data_sha256: .* a SHA-256"),
    "a merge conflict": (["<<<<<<< HEAD", *RUN, "=======", *RUN, ">>>>>>> b"], "line 2: 1 values, expected 15"),
    "an empty line": ([RUN[0], "", RUN[1]], "line 3: 0 values, expected 15"),
    "doubled lines": ([*RUN, RUN[1]], "line 4, variant, data, epochs, images_per_epoch, seed, epoch as in an earlier"),
}


@pytest.mark.parametrize(("lines", "message"), BROKEN.values(), ids=BROKEN)
def test_a_damaged_study_is_refused_in_one_line_and_nothing_is_rewritten(tmp_path, lines, message):
    file, bands = write(tmp_path / "study.csv", *lines), tmp_path / "bands.csv"
    before = file.read_bytes()
    bands.write_text(BANDS_TEXT)
    for use in (
        lambda: read_runs(file, epochs=2),
        lambda: add_rows(file, runs([0.9])),
        lambda: write_bands(file, bands, fewer_seeds=True),
    ):
        with pytest.raises(ValueError, match=rf"study\.csv: {message}.*Take the committed file again") as raised:
            use()
        assert "\n" not in str(raised.value)
    assert file.read_bytes() == before
    assert bands.read_text() == BANDS_TEXT


FOREIGN = {
    "an empty file": (b"", "line 1: expected the header variant,data"),
    "another table": (b"gan,data,seed\nfirst try,MNIST,0\n", "line 1: expected the header variant,data"),
    "a binary file": (b"\x80\x00\xff\xfe" * 50, "can't decode byte 0x80 in position 0"),
    "noise": (bytes(range(1, 128)) * 3, "line 1"),
    "cut off in the last number": (
        "\n".join([f"{HEADER},seconds", *RUN]).encode()[:-1],
        r"line 3, column seconds: '24\.'",
    ),
    "cut off after a digit": (
        "\n".join([f"{HEADER},seconds", *RUN]).encode()[:-3],
        "line 3: cut off, expected the end",
    ),
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_no_study_is_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "study.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"study\.csv: .*{message}.*Take the committed file again") as raised:
        add_rows(file, runs([0.9]))
    assert "\n" not in str(raised.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (BANDS_TEXT[:-8], "line 2, column origin: 'set in '"),
        (BANDS_TEXT.replace("0.4", "O.4"), "line 2, column low: 'O.4', expected a number in 0..1"),
        (BANDS_TEXT.replace("0.4,0.6,", ""), "line 2: 5 values, expected 7"),
        (BANDS_TEXT.replace("set in", "sEt in"), "line 2, column origin: 'sEt in advance'"),
        ("", "line 1: expected the header"),
    ],
)
def test_damaged_bands_are_no_missing_check_but_an_error(tmp_path, wrong, message):
    bands = tmp_path / "bands.csv"
    bands.write_text(wrong)
    with pytest.raises(ValueError, match=rf"bands\.csv: {message}"):
        report_accuracy("baseline", 0.5, tiny_dataset(), 4, 60_000, bands)


def test_a_missing_file_is_named(tmp_path):
    for read in (lambda file: read_table(file, TIMES), read_runs, lambda file: expected_accuracy(file, "a", "b", 1, 1)):
        with pytest.raises(ValueError, match=r"none\.csv: No such file or directory. Take the committed file"):
            read(tmp_path / "none.csv")


def test_read_runs_picks_one_setting_and_the_last_file_counts(tmp_path):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    pd.concat([runs([0.881, 0.882]), runs([0.5], images_per_epoch=1_500)]).to_csv(old, index=False)
    runs([0.883]).to_csv(new, index=False)
    assert sorted(read_runs(old, epochs=1)["accuracy"]) == [0.881, 0.882]
    assert read_runs(old, new, epochs=1).sort_values("seed")["accuracy"].tolist() == [0.883, 0.882]
    assert read_runs(old, epochs=1, images_per_epoch=1_500)["accuracy"].tolist() == [0.5]


def test_read_runs_tells_what_is_recorded(study):
    with pytest.raises(ValueError, match=r"\('MNIST', 4, 300\); recorded are \[\('MNIST', 2, 60000\)\]"):
        read_runs(study, images_per_epoch=300)


# ---- writing ---------------------------------------------------------------------------------------------------


def test_added_rows_are_sorted_and_the_newest_of_a_run_stays(tmp_path):
    file = tmp_path / "new" / "study.csv"
    add_rows(file, runs([0.1, 0.2]))
    add_rows(file, runs([0.3], variant="Adam"))
    add_rows(file, runs([0.4]))
    rows = read_table(file, STUDY)
    assert rows[["variant", "seed", "accuracy"]].to_numpy().tolist() == [
        ["Adam", 0, 0.3],
        ["baseline", 0, 0.4],
        ["baseline", 1, 0.2],
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (runs([0.9]).drop(columns="seed"), "column seed: ''"),
        (runs([0.9, float("nan")]), "column accuracy: ''"),
        (runs([0.9], epochs=2, variant="Adam"), "the run lacks an epoch"),
    ],
)
def test_rows_that_could_not_be_read_again_are_not_written(study, rows, message):
    before = study.read_bytes()
    with pytest.raises(ValueError, match=f"{message}.*nothing was written"):
        add_rows(study, rows)
    assert study.read_bytes() == before


FULL = """
import resource, sys
from pathlib import Path
from test_records import add_rows, runs
for name, limit in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        add_rows(Path(name), runs([0.9] * 50))
    except Exception as problem:
        print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
"""


def test_a_full_disk_is_told_in_one_line_leaves_nothing_behind_and_the_old_file_whole(study):
    pytest.importorskip("resource")
    before, new = study.read_bytes(), study.with_name("new.csv")
    command = [sys.executable, "-c", FULL, str(study), str(len(before) + 100), str(new), "100"]
    told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stderr
    assert told.count("\n") == 2
    for line in told.splitlines():
        assert line.startswith("DataError: ")
        assert "File too large" in line
    assert study.read_bytes() == before
    assert {path.name for path in study.parent.iterdir() if path.suffix != ".lock"} == {"study.csv"}


def test_a_folder_where_the_file_should_be_is_told(tmp_path):
    (tmp_path / "study.csv").mkdir()
    with pytest.raises((ValueError, DataError), match=r"study\.csv"):
        add_rows(tmp_path / "study.csv", runs([0.9]))


def test_a_killed_writer_leaves_whole_runs(tmp_path):
    file = tmp_path / "study.csv"
    command = (
        "import sys; from pathlib import Path; from test_records import add_rows, runs\n"
        "for seed in range(100_000): add_rows(Path(sys.argv[1]), runs([0.5, 0.6], variant=str(seed)))"
    )
    writer = subprocess.Popen([sys.executable, "-c", command, str(file)], cwd=Path(__file__).parent)
    for _ in count():
        if file.exists():
            break
        time.sleep(0.02)
    time.sleep(0.3)
    writer.kill()
    writer.wait()
    rows = read_table(file, STUDY)
    assert sorted(rows["variant"].astype(int)) == [k // 2 for k in range(len(rows))]


def test_conditions_are_those_of_data_and_machine(sample):
    found = conditions(sample[0])
    assert list(found) == STUDY.columns[8:14]
    assert (found["data_sha256"], found["device"], found["threads"]) == (sample[0].sha256, "cpu", 1)


# ---- bands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "low", "high"),
    [
        ([0.881, 0.882, 0.883], 0.87, 0.895),  # sd 0.001: one point more, 0.871 to 0.893, outwards to half points
        ([0.80, 0.82, 0.84], 0.74, 0.90),  # sd 0.02: 0.06 more on both sides
        ([0.9, 0.9], 0.89, 0.91),  # no scatter: one point
        ([0.001, 0.999], 0.0, 1.0),  # never beyond what an accuracy can be
    ],
)
def test_a_band_is_what_hand_calculation_gives(tmp_path, accuracies, low, high):
    study, bands = tmp_path / "study.csv", tmp_path / "bands.csv"
    add_rows(study, runs(accuracies))
    write_bands(study, bands)
    assert expected_accuracy(bands, "baseline", "MNIST", 1, 60_000) == (low, high)
    origin = f"{len(accuracies)} seeds: {accuracies[0]:.4f} to {accuracies[-1]:.4f}"
    assert read_table(bands, BANDS)["origin"].tolist() == [origin]
    assert band(pd.Series(accuracies)) == {"low": low, "high": high, "origin": origin}


def test_only_the_last_epoch_counts_for_a_band(tmp_path):
    lines = [line.replace("60000,0,", f"60000,{seed},") for seed in (0, 1) for line in RUN]
    study = write(tmp_path / "study.csv", *[line.replace(",1,0.92", ",1,0.1") for line in lines])
    write_bands(study, tmp_path / "bands.csv")
    assert expected_accuracy(tmp_path / "bands.csv", "baseline", "MNIST", 2, 60_000) == (0.91, 0.93)


def test_a_single_run_gives_no_band(tmp_path):
    add_rows(tmp_path / "study.csv", runs([0.88, 0.88]))
    add_rows(tmp_path / "study.csv", runs([0.9], variant="Adam"))
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert read_table(tmp_path / "bands.csv", BANDS)["variant"].tolist() == ["baseline"]


def test_a_band_set_in_advance_stays(tmp_path):
    stated = "variant,data,epochs,images_per_epoch,low,high,origin\nbaseline,MNIST,1,60000,0.86,0.9,set in advance\n"
    (tmp_path / "bands.csv").write_text(stated)
    add_rows(tmp_path / "study.csv", runs([0.881, 0.882]))
    for fewer_seeds in (False, True):
        write_bands(tmp_path / "study.csv", tmp_path / "bands.csv", fewer_seeds)
        assert (tmp_path / "bands.csv").read_text() == stated


@pytest.mark.parametrize("left", [2, 1, 0])
def test_the_seeds_behind_a_band_fall_only_when_asked_to(tmp_path, left):
    study, bands = tmp_path / "study.csv", tmp_path / "bands.csv"
    add_rows(study, runs([0.88, 0.89, 0.9]))
    write_bands(study, bands)
    before = bands.read_bytes()
    study.unlink()
    add_rows(study, pd.concat([runs([0.88, 0.89, 0.9][:left]), runs([0.5, 0.5], variant="Adam")]))
    message = (
        rf"bands\.csv stays as it is: .*baseline, MNIST, 1, 60000 comes from 3 seeds, .* holds {left}.*--fewer-seeds"
    )
    with pytest.raises(ValueError, match=message):
        write_bands(study, bands)
    assert bands.read_bytes() == before
    write_bands(study, bands, fewer_seeds=True)
    assert len(read_table(bands, BANDS)) == (2 if left > 1 else 1)


def test_the_committed_study_cut_between_two_runs_does_not_shrink_the_committed_bands(tmp_path):
    study, bands = tmp_path / "study.csv", tmp_path / "bands.csv"
    lines = (RESULTS / "study.csv").read_text().splitlines(keepends=True)
    study.write_text("".join(lines[: 1 + 4 * 40]))
    bands.write_bytes(BANDS_FILE.read_bytes())
    with pytest.raises(ValueError, match="comes from 5 seeds"):
        write_bands(study, bands)
    assert bands.read_bytes() == BANDS_FILE.read_bytes()


# ---- an accuracy beside its band -------------------------------------------------------------------------------


def tiny_dataset():
    """One image of a one."""
    return MnistDataset.from_arrays(np.array([1], np.uint8), np.zeros((1, 784), np.uint8), "tiny")


@pytest.fixture
def bands(tmp_path):
    (tmp_path / "bands.csv").write_text(BANDS_TEXT)
    return tmp_path / "bands.csv"


def test_a_band_belongs_to_its_settings_alone(bands):
    assert expected_accuracy(bands, "baseline", "tiny", 4, 60_000) == (0.4, 0.6)
    assert expected_accuracy(bands, "baseline", "tiny", 1, 60_000) is None
    assert expected_accuracy(bands, "Adam", "tiny", 4, 60_000) is None


def test_an_accuracy_inside_its_band_is_shown_without_hints(bands, capsys):
    for accuracy in (0.4, 0.5, 0.6):
        report_accuracy("baseline", accuracy, tiny_dataset(), 4, 60_000, bands)
    output = capsys.readouterr().out
    assert output.count("expected 40.0% to 60.0%") == 3
    assert "usual causes" not in output


@pytest.mark.parametrize(("accuracy", "how_far"), [(0.61, "+1.00 percentage points"), (0.375, "-2.50 percentage")])
def test_an_accuracy_outside_its_band_fails_with_a_friendly_hint(bands, capsys, accuracy, how_far):
    with pytest.raises(AssertionError, match=r"expected 40.0% to 60.0% on tiny. See the hints above."):
        report_accuracy("baseline", accuracy, tiny_dataset(), 4, 60_000, bands)
    output = capsys.readouterr().out
    assert f"{accuracy:.2%} of 1 test images right (expected 40.0% to 60.0%)" in output
    assert how_far in output
    assert "4 epochs of 60,000 images, data tiny" in output
    for hint in ("usual causes", "Restart the kernel", "set_seed", "gan-tutorial data --verify"):
        assert hint in output


@pytest.mark.parametrize(("epochs", "images", "name"), [(0, 60_000, "epochs"), (4, -1, "images_per_epoch")])
def test_an_accuracy_after_no_training_is_an_error(bands, epochs, images, name):
    with pytest.raises(ValueError, match=rf"{name} is (0|-1); it must be 1 or more\."):
        report_accuracy("baseline", 0.1, tiny_dataset(), epochs, images, bands)
