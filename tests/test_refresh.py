"""Maintainers' refresh: outputs and times of finished runs go into notebooks, times.csv and README, or nothing does."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest

from gan_tutorial.tools.runner import RunError

PATH = Path(__file__).parents[1] / "docs" / "refresh.py"
specification = importlib.util.spec_from_file_location("refresh", PATH)
refresh = importlib.util.module_from_spec(specification)
specification.loader.exec_module(refresh)

TITLE = "# 03 · Net\n\n**Running time:** 9 minutes\n\nText."
NOTES = [
    {"figure": "03_line", "alt": "A line."},
    {"variant": "baseline", "accuracy": 0.875, "expected": [0.8, 0.9]},
    {"gan": "first try", "frechet": 1402.0, "limit": 1500.0},
    {"gan": "repaired", "frechet": 1300.0, "limit": None},
    {"gan": "repaired", "frechet": 402.34, "limit": None},  # run again: the later one counts
]
CONDITIONS = {"profile": "full", "data_name": "MNIST", "device": "cpu", "jobs": 2, "changed": []}
CONDITIONS |= {"versions": {"torch": "2.13.0"}, "date": "2026-11-24"}


def cell(source, cell_id, outputs=(), count=None, tags=()):
    made = nbformat.v4.new_code_cell(source, id=cell_id, outputs=list(outputs), execution_count=count)
    if tags:
        made.metadata["tags"] = list(tags)
    return made


@pytest.fixture
def course(tmp_path):
    """A course of one notebook, and a full run of it in ``build``: (root, times.csv)."""
    for folder in ("notebooks", "build/notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    text = nbformat.v4.new_markdown_cell(TITLE, id="t")
    committed = [text, cell("seed = 0", "p", tags=["parameters"]), cell("6 * 7", "c"), cell("report()", "d")]
    nbformat.write(nbformat.v4.new_notebook(cells=committed), tmp_path / "notebooks" / "03_net.ipynb")
    marked = [
        nbformat.v4.new_output("display_data", {"text/plain": "x"}, metadata={"gan_tutorial": note}) for note in NOTES
    ]
    result = nbformat.v4.new_output("execute_result", {"text/plain": "42"}, execution_count=3)
    executed = [
        nbformat.v4.new_markdown_cell("An older text.", id="t"),
        cell("seed = 0", "p", count=1, tags=["parameters"]),
        cell("seed = 0", "i", count=2, tags=["injected-parameters"]),
        cell("6 * 7", "c", [result], count=3),
        cell("report()", "d", marked, count=4),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=executed), tmp_path / "build" / "notebooks" / "03_net.ipynb")
    write_run(tmp_path / "build")
    (tmp_path / "README.md").write_text(
        "# Course\n\n| a | b | c | d |\n|---|---|---|---|\n"
        "| [03_net](notebooks/03_net.ipynb) | nets | 9 minutes | old 1% |\nEnd\n"
    )
    times = tmp_path / "times.csv"
    times.write_text(
        "notebook,profile,seconds,data,device,jobs,cores,machine,torch,date\n"
        "03_net,quick,5.0,MNIST,cpu,2,2,x86_64,2.12.0,2026-01-01\n"
        "99_old,full,8.0,MNIST,cpu,2,2,x86_64,2.12.0,2026-01-01\n"
    )
    return tmp_path, times


def write_run(output, problem="", **conditions):
    notebooks = {"03_net": {"seconds": 61.5, "problem": problem}}
    output.mkdir(exist_ok=True)
    (output / "times.json").write_text(json.dumps(CONDITIONS | conditions | {"notebooks": notebooks}))


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_full_run_gives_outputs_counts_times_and_the_row_of_the_readme(course):
    root, times = course
    refresh.refresh([root / "build"], root, times)
    notebook = nbformat.read(root / "notebooks" / "03_net.ipynb", as_version=4)
    assert [one.id for one in notebook.cells] == ["t", "p", "c", "d"]
    assert [one.execution_count for one in notebook.cells[1:]] == [1, 2, 3]
    assert notebook.cells[2].outputs[0].execution_count == 2
    assert notebook.cells[2].outputs[0].data["text/plain"] == "42"
    time_line = "**Running time:** 70 seconds; in profile quick 10 seconds"
    assert notebook.cells[0].source == f"# 03 · Net\n\n{time_line}\n\nText."
    results = f"{refresh.over_seeds('baseline 87.50%')}, Fréchet 402.3 (repaired)"
    assert (root / "README.md").read_text() == "# Course\n\n| a | b | c | d |\n|---|---|---|---|\n" + (
        f"| [03_net](notebooks/03_net.ipynb) | nets | 70 seconds | {results} |\nEnd\n"
    )
    assert [line.split(",")[:6] for line in times.read_text().splitlines()[1:]] == [
        ["03_net", "full", "61.5", "MNIST", "cpu", "2"],
        ["03_net", "quick", "5.0", "MNIST", "cpu", "2"],
        ["99_old", "full", "8.0", "MNIST", "cpu", "2"],
    ]
    assert ",2.13.0,2026-11-24\n" in times.read_text()


def test_the_stored_hash_is_that_of_the_code_cells_and_changes_with_them_alone(course):
    root, times = course
    refresh.refresh([root / "build"], root, times)
    notebook = nbformat.read(root / "notebooks" / "03_net.ipynb", as_version=4)
    by_hand = hashlib.sha256(b'["seed = 0", "6 * 7", "report()"]').hexdigest()
    assert notebook.metadata["gan_tutorial"] == {"code_sha256": by_hand}
    notebook.cells[0].source = "Other text."
    assert refresh.code_sha256(notebook) == by_hand
    notebook.cells[2].source = "6 * 8"
    assert refresh.code_sha256(notebook) != by_hand


@pytest.mark.parametrize("conditions", [{"profile": "quick"}, {"data_name": "MNIST sample"}])
def test_of_any_other_run_only_the_times_are_taken(course, conditions, capsys):
    root, times = course
    before = (root / "notebooks" / "03_net.ipynb").read_bytes()
    write_run(root / "build", **conditions)
    refresh.refresh([root / "build"], root, times)
    assert (root / "notebooks" / "03_net.ipynb").read_bytes() == before
    assert "61.5" in times.read_text()
    assert "outputs are only taken from a run in profile full on all of MNIST" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"problem": "failed in cell 2"}, "these notebooks failed: 03_net"),
        ({"changed": ["seed"]}, "was given other parameters: seed"),
    ],
)
def test_a_run_that_failed_or_had_other_parameters_is_refused_and_nothing_is_written(course, run, message):
    root, times = course
    write_run(root / "build", **run)
    before = contents(root)
    with pytest.raises(RunError, match=message):
        refresh.refresh([root / "build"], root, times)
    assert contents(root) == before


def test_a_run_that_has_not_come_to_its_end_is_refused(course):
    root, times = course
    (root / "build" / "times.json").unlink()
    with pytest.raises(RunError, match=r"no .*times\.json: no run"):
        refresh.refresh([root / "build"], root, times)


def test_a_damaged_times_csv_is_refused_and_nothing_is_written(course):
    root, times = course
    times.write_text(times.read_text().replace("99_old,full,8.0", "99_old,full,8O"))
    before = contents(root)
    with pytest.raises(ValueError, match=r"times.csv: line 3, column seconds: '8O', expected a number"):
        refresh.refresh([root / "build"], root, times)
    assert {path: before[path] for path in before} == {path: contents(root)[path] for path in before}


def test_code_that_has_changed_since_the_run_is_refused(course):
    root, times = course
    file = root / "notebooks" / "03_net.ipynb"
    file.write_text(file.read_text().replace("6 * 7", "6 * 8"))
    before = file.read_bytes()
    with pytest.raises(RunError, match=r"03_net.ipynb: its code has changed since it was executed"):
        refresh.refresh([root / "build"], root, times)
    assert file.read_bytes() == before


def test_a_network_is_told_with_mean_and_spread_over_its_seeds_and_any_other_result_as_it_is():
    assert re.fullmatch(r"baseline 88\.13% ± 0\.0\d", refresh.over_seeds("baseline 87.50%"))
    assert refresh.over_seeds("Fréchet 402.3 (repaired)") == "Fréchet 402.3 (repaired)"


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "10 seconds"), (61, "70 seconds"), (110, "110 seconds"), (111, "2 minutes")]
)
def test_times_are_rounded_up(seconds, text):
    assert refresh.about(seconds) == text
