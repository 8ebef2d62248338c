"""benchmarks/accelerator.py writes the rows that notebook 04 reads, and only its own."""

import ast
import importlib.util
import math
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from gan_tutorial.records import RESULTS

ROOT = Path(__file__).parents[1]
SCRIPT, RECORDED = ROOT / "benchmarks" / "accelerator.py", RESULTS / "accelerator.csv"
COLUMNS = ["case", "method", "device_type", "device_name", "x", "value", "unit", "torch", "python", "date"]
UNITS = {
    "matrix_product": {"s"},
    "ann_step": {"s"},
    "graph_step": {"s"},
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


def row(device_name, value, case="ann_step"):
    values = [case, "torch", "cpu", device_name, 1, value, "s", "2.9.0", "3.11.0", "2026-01-31"]
    return dict(zip(COLUMNS, values, strict=True))


def check(rows):
    """Assert what notebook 04 takes for granted."""
    assert list(rows.columns) == COLUMNS
    assert not rows.isna().any().any()
    assert all(set(group["unit"]) == UNITS[case] for case, group in rows.groupby("case"))
    assert set(rows["method"]) == {"python", "numpy", "torch"}
    assert rows["value"].map(math.isfinite).all()
    assert (rows.loc[rows["case"] != "parity", "value"] > 0).all()
    assert rows.loc[rows["case"] == "parity", "value"].max() < 1e-4
    assert not rows["device_name"].str.contains("/").any()
    assert pd.to_datetime(rows["date"], format="%Y-%m-%d").notna().all()
    assert not rows.duplicated(["case", "method", "device_name", "x", "unit", "date"]).any()


def test_a_quick_run_on_the_cpu_writes_every_case_but_the_graph(tmp_path):
    file = tmp_path / "new" / "rows.csv"
    result = run("--device", "cpu", "--quick", "--output", file)
    assert result.returncode == 0, result.stderr
    assert "Left out" in result.stdout
    rows = pd.read_csv(file)
    check(rows)
    assert set(rows["case"]) == set(UNITS) - {"graph_step"}
    products = rows[rows["case"] == "matrix_product"].pivot_table(index="x", columns="method", values="value")
    assert list(products.index) == [2, 4, 8, 16, 32, 64, 128]
    assert products.loc[128, "python"] > 10 * products.loc[128, "torch"]
    assert list(rows.loc[rows["case"] == "batch_throughput", "x"]) == [1, 4, 16, 64]


def test_the_recorded_rows_are_of_that_form():
    rows = pd.read_csv(RECORDED)
    check(rows)
    for name, group in rows.groupby("device_name"):
        assert {"matrix_product", "ann_step", "batch_throughput", "parity"} <= set(group["case"]), name


def test_rows_of_the_same_device_are_replaced_and_others_kept(accelerator, tmp_path):
    file = tmp_path / "rows.csv"
    accelerator.write(pd.DataFrame([row("A", 1.0), row("B", 2.0), row("B", 3.0, case="graph_step")]), file)
    accelerator.write(pd.DataFrame([row("B", 4.0)]), file)
    assert list(pd.read_csv(file)[["device_name", "value"]].itertuples(index=False, name=None)) == [("A", 1), ("B", 4)]


def test_a_run_that_is_cut_short_leaves_the_old_file(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("as it was")
    command = [sys.executable, SCRIPT, "--device", "cpu", "--quick", "--output", file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while "matrix_product" not in process.stdout.readline():
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

    effort = accelerator.Effort(turns=3, seconds=0.02, largest_matrix=2, largest_batch=1)
    works = {"short": lambda: work("short", 0.002), "long": lambda: work("long", 0.02)}
    times = accelerator.medians(works, effort)
    assert 0.002 <= times["short"] < 0.01
    assert 0.02 <= times["long"] < 0.06
    changes = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert changes == ["short", "long"] * 4  # once to count the calls that fill a turn, then three turns


def plain(function):
    """Return the code of a function without docstring and types."""
    function.returns = None
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            node.body = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(function)


@pytest.mark.parametrize("name", ["capture_step", "python_product"])
def test_what_is_measured_is_what_the_notebook_shows(name):
    cells = nbformat.read(ROOT / "notebooks" / "04_acceleration.ipynb", as_version=4).cells
    texts = [SCRIPT.read_text(encoding="utf-8"), *(c.source for c in cells if c.cell_type == "code")]
    found = [n for t in texts for n in ast.parse(t).body if isinstance(n, ast.FunctionDef) and n.name == name]
    ours, theirs = found
    assert plain(ours) == plain(theirs)
