"""A full run is compared with the committed outputs: what has to be equal is, and what may differ is counted."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from compare_outputs import NOTEBOOKS, differences, main, same_text
from nbformat.v4 import new_code_cell, new_notebook, new_output


@pytest.mark.parametrize(
    ("committed", "found"),
    [
        ("accuracy 88.20 %", "accuracy 88.20 %"),
        ("loss 0.0185", "loss 0.0186"),  # one unit of the last digit
        ("0.5, then 1.25e-3", "0.5, then 1.26e-3"),
        ("a   0.10\nb  -0.00", "a 0.10\nb 0.00"),  # padding and the sign of zero
        ("60,000 images in 784-200-10", "60,000 images in 784-200-10"),
    ],
)
def test_equal_texts_agree(committed, found):
    assert same_text(committed, found, [])


@pytest.mark.parametrize(
    ("committed", "found"),
    [
        ("loss 0.0185", "loss 0.0187"),
        ("60,000 images", "60,001 images"),
        ("784-200-10", "784-201-10"),
        ("LeakyReLU 97.24", "Adam 97.24"),
        ("0.1 0.2", "0.1"),
        ("1.25e-3", "1.27e-3"),
        ("loss 0.5", "loss nan"),
    ],
)
def test_other_words_numbers_and_counts_do_not(committed, found):
    assert not same_text(committed, found, [])


def test_a_tag_allows_what_it_says_and_no_more():
    assert same_text("100.0 ms", "104.0 ms", ["rtol=0.05"])
    assert not same_text("100.0 ms", "106.0 ms", ["rtol=0.05"])
    assert same_text("100.0 ms", "9.0 ms", ["varies"])
    assert not same_text("100.0 ms", "9.0 s", ["varies"])
    assert same_text("torch 2.13.0", "no torch", ["machine"])


def notebook(*outputs, cell_id="a"):
    return new_notebook(cells=[new_code_cell("show()", id=cell_id, outputs=list(outputs))])


def test_missing_and_new_outputs_and_cells_are_differences():
    line, figure = (
        new_output("stream", text="1.0\n"),
        new_output("display_data", {"text/plain": "Figure 03_a: A line.", "text/html": '<img src="1">'}),
    )
    assert list(differences(notebook(line, figure), notebook(line, figure))) == []
    assert "nothing found" in next(differences(notebook(line, figure), notebook(line)))
    assert "nothing committed" in next(differences(notebook(line), notebook(line, figure)))
    assert len(list(differences(notebook(line), notebook(line, cell_id="b")))) == 2
    other = new_output("display_data", {"text/plain": "Figure 03_a: Two lines."})
    assert "Two lines" in next(differences(notebook(figure), notebook(other)))
    redrawn = new_output("display_data", figure.data | {"text/html": '<img src="2">'})
    assert list(differences(notebook(figure), notebook(redrawn))) == []


def test_of_a_table_every_column_counts_but_that_of_the_seconds():
    def table(seconds, accuracy):
        frame = pd.DataFrame({"seconds": [seconds], "accuracy": [accuracy]}, index=["Adam"])
        return notebook(new_output("display_data", {"text/html": frame.to_html(), "text/plain": str(frame)}))

    assert list(differences(table(12, 0.97), table(90, 0.97))) == []
    assert "0.95" in next(differences(table(12, 0.97), table(12, 0.95)))


def test_one_number_broken_in_a_stored_output_fails(tmp_path, capsys):
    for path in NOTEBOOKS.glob("*.ipynb"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(tmp_path) == 0
    text = (tmp_path / "03_baseline_ann.ipynb").read_text(encoding="utf-8")
    (tmp_path / "03_baseline_ann.ipynb").write_text(text.replace("88.20%", "88.22%"), "utf-8")
    (tmp_path / "04_acceleration.ipynb").unlink()
    assert main(tmp_path) == 1
    told = capsys.readouterr().out
    assert "03_baseline_ann: cell " in told
    assert "04_acceleration: not executed" in told


# How many cells are compared less than exactly; these numbers may only fall.
MOST = {"rtol": 0, "varies": 9, "machine": 2}


def test_few_cells_are_compared_less_than_exactly():
    paths = sorted(Path(NOTEBOOKS).glob("*.ipynb"))
    tags = [
        tag
        for path in paths
        for cell in nbformat.read(path, as_version=4).cells
        for tag in cell.metadata.get("tags", [])
    ]
    assert {kind: sum(tag.split("=")[0] == kind for tag in tags) for kind in MOST} == MOST
    assert all(float(tag.removeprefix("rtol=")) <= 0.1 for tag in tags if tag.startswith("rtol="))
