"""benchmarks/accelerator.py writes the rows that notebook 04 reads, and only its own."""

import importlib.util
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from gan_tutorial.records import RESULTS

ROOT = Path(__file__).parents[1]
SCRIPT, RECORDED = ROOT / "benchmarks" / "accelerator.py", RESULTS / "accelerator.csv"
COLUMNS = ["case", "method", "device_type", "device_name", "x", "value", "unit", "torch", "python", "date"]
UNITS = {
    "batch_throughput": {"images/s"},
    "parity": {"relative loss difference", "relative gradient difference"},
}


@pytest.fixture(scope="module")
def accelerator():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("accelerator", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["accelerator"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["accelerator"]


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def row(device_name, value, batch_size=1):
    kind = "cuda" if "GPU" in device_name else "cpu"
    values = ["batch_throughput", "torch", kind, device_name, batch_size, value, "images/s"]
    values += ["2.9.0", "3.11.0", "2026-01-31"]
    return dict(zip(COLUMNS, values, strict=True))


def check(rows):
    """Assert what notebook 04 takes for granted."""
    assert list(rows.columns) == COLUMNS
    assert not rows.isna().any().any()
    assert all(set(group["unit"]) == UNITS[case] for case, group in rows.groupby("case"))
    assert set(rows["method"]) == {"torch"}
    assert rows["value"].map(math.isfinite).all()
    assert (rows.loc[rows["case"] != "parity", "value"] > 0).all()
    assert rows.loc[rows["case"] == "parity", "value"].max() < 1e-4
    assert not rows["device_name"].str.contains("/").any()
    assert pd.to_datetime(rows["date"], format="%Y-%m-%d").notna().all()
    assert not rows.duplicated(["case", "method", "device_name", "x", "unit", "date"]).any()


def test_a_quick_run_on_the_cpu_writes_every_case(tmp_path):
    file = tmp_path / "new" / "rows.csv"
    result = run("--device", "cpu", "--quick", "--output", file)
    assert result.returncode == 0, result.stderr
    assert "Left out" in result.stdout
    rows = pd.read_csv(file)
    check(rows)
    assert set(rows["case"]) == set(UNITS)
    assert list(rows.loc[rows["case"] == "batch_throughput", "x"]) == [1, 4, 16, 64]


def test_the_recorded_rows_are_of_that_form():
    rows = pd.read_csv(RECORDED)
    check(rows)
    for name, group in rows.groupby("device_name"):
        assert set(group["case"]) == set(UNITS), name


def test_rows_of_the_same_device_are_replaced_and_others_kept(accelerator, tmp_path):
    file = tmp_path / "rows.csv"
    accelerator.write(pd.DataFrame([row("A", 1.0), row("B", 2.0), row("B", 3.0, batch_size=4)]), file)
    accelerator.write(pd.DataFrame([row("B", 4.0)]), file)
    assert list(pd.read_csv(file)[["device_name", "value"]].itertuples(index=False, name=None)) == [("A", 1), ("B", 4)]


def test_a_run_that_is_cut_short_leaves_the_old_file(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("as it was")
    command = [sys.executable, SCRIPT, "--device", "cpu", "--quick", "--output", file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while "batch_throughput" not in process.stdout.readline():
            pass
        process.kill()
    assert file.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [file]


def test_an_unknown_device_is_one_clear_line(tmp_path):
    result = run("--device", "tpu", "--output", tmp_path / "rows.csv")
    assert result.returncode == 1
    assert result.stderr.startswith("--device: There is no device called 'tpu'. Choose one of: auto, cpu")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_ways_take_turns_and_times_are_seconds_a_call(accelerator):
    order = []

    def work(name, seconds):
        order.append(name)
        time.sleep(seconds)

    effort = accelerator.Effort(turns=3, seconds=0.02, largest_batch=1)
    works = {"short": lambda: work("short", 0.002), "long": lambda: work("long", 0.02)}
    times = accelerator.medians(works, effort)
    assert 0.002 <= times["short"] < 0.01
    assert 0.02 <= times["long"] < 0.06
    changes = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert changes == ["short", "long"] * 4  # once to count the calls that fill a turn, then three turns


def cell(name):
    """The cell of notebook 04 with that id."""
    cells = nbformat.read(ROOT / "notebooks" / "04_acceleration.ipynb", as_version=4).cells
    return next(c for c in cells if c.id == name)


@pytest.mark.parametrize("names", [["CPU"], ["CPU", "GPU"]])
def test_the_notebook_draws_recorded_accelerators_and_no_recorded_cpu(names, tmp_path):
    """The rows of other machines' CPUs stay in the file; without an accelerator's rows nothing is drawn."""
    pd.DataFrame([row(n, 100.0, size) for n in names for size in (1, 4)]).to_csv(tmp_path / "accelerator.csv")
    times = {"sizes": [1, 4], "less": 1, "step_times": pd.DataFrame({"784-200-10, cpu": [1e-3, 2e-3]}, index=[1, 4])}
    drawn = []
    space = {"pd": pd, "plt": plt, "RESULTS": tmp_path, "GREY": "grey", "COLORS": {"baseline": "blue"}, **times}
    space |= {"label_ends": lambda axes: drawn.extend(line.get_label() for line in axes.lines), "show": lambda *_: None}
    exec("\n".join([cell("recorded").source, cell("batch-figure").source]), space)
    plt.close("all")
    assert drawn == ["784-200-10, cpu", *names[1:]]


def test_the_text_of_the_notebook_fits_its_stored_times():
    """About a hundred times or more, not even twice, a few times: what the cells tagged ``answer`` say."""
    number = re.compile(r"\d[\d,]*\.?\d*")
    tables = {}
    for name in ("sum-table", "loop-times", "batch-table"):
        text = "".join(output.text for output in cell(name).outputs)
        tables[name] = [[float(n.replace(",", "")) for n in number.findall(line)] for line in text.splitlines()]
    (_, one, _, torch_one), (_, python, _, torch_many) = tables["sum-table"][-2:]
    assert 0.1 < one / torch_one < 10
    assert 50 < python / torch_many < 1_000
    (*_, ours, _, _, _, smallest) = tables["loop-times"][0]
    assert smallest < ours < 2 * smallest
    (_, single, _), (_, batch, _) = tables["batch-table"][-2:]
    assert batch < 10 * single
