"""The benchmarks compare with the right thing, and what they recorded is whole."""

import re
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

from benchmarks import loops, rows
from benchmarks.by_hand import BACKWARD, rank_one_step
from gan_tutorial.data import write_csv
from gan_tutorial.device import set_seed
from gan_tutorial.recipes import SEEDED, VARIANTS

BENCH = Path(__file__).parents[1] / "benchmarks" / "bench.csv"


def test_every_variant_has_an_opponent():
    assert set(BACKWARD) == set(SEEDED)


@pytest.mark.parametrize("variant", SEEDED)
def test_the_step_by_hand_trains_like_the_plain_step(variant, sample):
    networks = []
    for by_hand in (False, True):
        set_seed(4)
        networks.append(VARIANTS[variant]())
        step = rank_one_step(networks[-1], variant) if by_hand else networks[-1].train_step
        for i in range(200):
            step(sample[0].images[i], sample[0].targets[i])
    for plain, ours in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_the_posts_table_gives_the_items_of_the_data_set(sample, tmp_path):
    write_csv(sample[1], tmp_path / "digits.csv")
    digits = loops.PandasDigits(tmp_path / "digits.csv")
    assert len(digits) == len(sample[1])
    assert loops.blocks(digits.table) == 1  # else it is 100 times slower, and no fair opponent
    for index in (0, 500, 999):
        ours, theirs = sample[1][index], digits[index]
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])
        assert torch.equal(ours[2], theirs[2])


def row(**changes):
    values = dict.fromkeys(rows.COLUMNS, "x") | {"threads": 1, "kind": "measured", "rounds": 3, "target": 1.05}
    values |= {"seconds": 2.0, "seconds_q1": 1.9, "seconds_q3": 2.1, "against_seconds": 4.0, "cores": 2}
    return values | {"ratio": 0.5, "ratio_q1": 0.4, "ratio_q3": 0.6} | changes


def test_new_rows_take_the_place_of_old_ones_of_the_same_case(tmp_path):
    file = tmp_path / "bench.csv"
    rows.write_rows(file, pd.DataFrame([row(case="a"), row(case="b")]))
    rows.write_rows(file, pd.DataFrame([row(case="b", ratio=0.123456)]))
    found = pd.read_csv(file)
    assert found["case"].tolist() == ["a", "b"]
    assert found["ratio"].tolist() == [0.5, 0.1235]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.csv"]


def test_the_course_is_computed_from_the_posts_loop():
    post = row(case="one whole epoch", against="the post's loop", against_seconds=60.0, note="60,000 images, once each")
    notebooks = ["03_baseline_ann", "05_loss_function", "05_loss_function", "23_gan"]
    times = pd.DataFrame({"notebook": notebooks, "profile": ["full", "full", "quick", "full"], "jobs": 2})
    times["seconds"] = [300.0, 93.0, 9.0, 500.0]
    found = rows.course_row(pd.DataFrame([post]), times).iloc[0]
    epochs = sum(rows.EPOCHS_TRAINED.values())
    assert found["kind"] == "computed"
    assert found["against_seconds"] == pytest.approx(60.0 * epochs)
    assert found["ratio"] == pytest.approx(393.0 / 2 / (60.0 * epochs))


def test_the_figure_shows_every_case_once():
    table = pd.DataFrame([row(case="a"), row(case="a", threads=2), row(case="b", kind="computed")])
    axes = rows.draw(table).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b: x  /  x", "a: x  /  x"]
    assert axes.get_xscale() == "log"


def test_the_recorded_rows_are_whole():
    found = pd.read_csv(BENCH)
    assert found.columns.tolist() == rows.COLUMNS
    assert not found.duplicated(rows.KEY).any()
    assert (
        not found[["seconds", "against_seconds", "ratio", "target", "versions", "machine", "date"]]
        .isna()
        .any(axis=None)
    )
    assert (found["ratio"] / (found["seconds"] / found["against_seconds"])).between(0.7, 1.4).all()
    assert {f"fast path, {variant}" for variant in SEEDED} <= set(found["method"])


@pytest.mark.parametrize("name", [name for name in rows.EPOCHS_TRAINED if not name.startswith("03")])
def test_the_epochs_counted_are_those_in_the_stored_outputs(name):
    """`train` leaves a line "240,000 of 240,000 images" behind; notebook 03 has a loop of its own and says 4 epochs."""
    notebook = nbformat.read(BENCH.parents[1] / "notebooks" / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in outputs]
    shown = [int(count.replace(",", "")) for text in texts for count in re.findall(r"([\d,]+) of \1 images", text)]
    assert sum(shown) == 60_000 * rows.EPOCHS_TRAINED[name]


def test_every_package_of_the_benchmarks_is_pinned():
    root = BENCH.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (root / "benchmarks" / "constraints.txt").read_text(encoding="utf-8")
    for requirement in project["optional-dependencies"]["bench"]:
        assert f"\n{requirement.split('>=')[0]}==" in pins
