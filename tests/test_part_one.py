"""The measure of notebooks 00 to 12: how long they are, and that each prediction is answered."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

WORDS = {  # in Markdown cells, exercises included
    "00_setup": 550,
    "01_autograd": 1_300,
    "02_mnist_dataset": 1_300,
    "03_baseline_ann": 2_100,
    "04_acceleration": 850,
    "05_loss_function": 1_100,
    "06_activation_function": 1_100,
    "07_optimizer": 1_100,
    "08_normalization": 750,
    "09_combination": 1_000,
    "10_evidence": 1_150,
    "11_backprop_by_hand": 1_050,
    "12_which_bug": 650,
}
ALL_WORDS, VISIBLE_LINES = 14_000, 1_700
FOLDER = Path(__file__).parents[1] / "notebooks"
each_notebook = pytest.mark.parametrize("name", WORDS)


def cells(name, kind):
    return [cell for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells if cell.cell_type == kind]


def tags(cell):
    return cell.metadata.get("tags", [])


def words(name):
    return sum(len(cell.source.split()) for cell in cells(name, "markdown"))


def code_lines(name, hidden):
    return [line for c in cells(name, "code") if ("hide-input" in tags(c)) == hidden for line in c.source.splitlines()]


def test_part_one_is_these_notebooks():
    assert [path.stem for path in sorted(FOLDER.glob("[01]*.ipynb"))] == list(WORDS)


@each_notebook
def test_no_more_words_than_a_learner_remembers(name):
    assert words(name) <= WORDS[name]


def test_part_one_as_a_whole_is_short():
    assert sum(map(words, WORDS)) <= ALL_WORDS
    assert sum(len(code_lines(name, hidden=False)) for name in WORDS) <= VISIBLE_LINES


@each_notebook
def test_at_most_a_fifth_of_the_code_is_hidden(name):
    hidden, visible = (sum(map(bool, code_lines(name, hidden))) for hidden in (True, False))
    assert 5 * hidden <= hidden + visible


@each_notebook
def test_code_fits_the_column_of_the_site(name):
    lines = [line for cell in cells(name, "code") for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > 78] == []


def may_be_long(cell):
    """Say whether a cell is hidden, holds one function or class, or begins with imports."""
    body = ast.parse(cell.source).body
    one = len(body) == 1 and isinstance(body[0], ast.FunctionDef | ast.ClassDef)
    return "hide-input" in tags(cell) or one or isinstance(body[0], ast.Import | ast.ImportFrom)


@each_notebook
def test_cells_are_short(name):
    too_long = [c.id for c in cells(name, "code") if len(c.source.splitlines()) > (25 if may_be_long(c) else 12)]
    assert too_long == []


@each_notebook
def test_hidden_cells_compute_nothing_that_is_used_later(name):
    """A name that a hidden cell sets may be read by hidden cells only."""
    stored, read = set(), set()
    for cell in cells(name, "code"):
        names = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
        if "hide-input" in tags(cell):
            stored |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        else:
            set_here = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            set_here |= {node.arg for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.arg)}
            read |= {node.id for node in names if isinstance(node.ctx, ast.Load)} & stored - set_here
            stored -= set_here
    assert read == set()


@each_notebook
def test_two_to_four_predictions_each_answered_after_its_result(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    asked = [k for k, cell in enumerate(notebook) if "> **Predict:**" in cell.source]
    assert 2 <= len(asked) <= 4
    assert asked == [k for k, cell in enumerate(notebook) if "predict" in tags(cell)]
    answers = [k for k, cell in enumerate(notebook) if "answer" in tags(cell)]
    assert len(answers) == len(asked)
    for question, answer in zip(asked, answers, strict=True):
        assert question < answer
        assert any(cell.get("outputs") for cell in notebook[question:answer])
        assert notebook[answer].cell_type == "markdown"


@each_notebook
def test_at_most_three_exercises_in_few_words(name):
    text = cells(name, "markdown")[-1].source
    exercises = text[text.index("## Exercises") :].splitlines()[1:]
    exercises = [line for line in exercises if "](../README.md)" not in line]
    assert 1 <= len([line for line in exercises if re.match(r"\d+\. ", line)]) <= 3
    assert len(" ".join(exercises).split()) <= 120
