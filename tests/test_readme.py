"""The README's table and every notebook's running time say what the recorded runs say."""

import re
from pathlib import Path

import nbformat
import pytest

from gan_tutorial.tools.outputs import about, fill_readme, marks, read_times, running_time
from gan_tutorial.tools.tasks import NOTEBOOKS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


def row(path):
    """The end of a notebook's row in the README: time and results."""
    notebook = nbformat.read(path, as_version=4)
    seconds = {t["profile"]: float(t["seconds"]) for t in read_times() if t["notebook"] == path.stem}
    notes = [note for _, _, note in marks(notebook)]
    found = {m["variant"]: f"{m['variant']} {m['accuracy']:.2%}" for m in notes if "accuracy" in m}
    texts = [*found.values(), *(f"Fréchet {d:.1f} ({gan})" for d, gan in sorted(gans(notes))[:1])]
    return f"| {about(seconds['full'])} | {', '.join(texts)} |"


def gans(notes):
    return [(note["frechet"], note["gan"]) for note in notes if "gan" in note]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_row_of_the_table_is_what_the_notebook_shows(path):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| [{path.stem}](notebooks/{path.name})")]
    assert line.endswith(row(path)), f"it should end in {row(path)}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_running_time_is_the_recorded_one(path):
    first = nbformat.read(path, as_version=4).cells[0].source
    assert running_time(path.stem) in first.splitlines()


def test_pictures_and_links_exist_and_pictures_have_alt_text():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    files = [link.split("#")[0] for link in links if not link.startswith("http")]
    assert [link for link in files if not (Path(__file__).parents[1] / link).exists()] == []
    pictures = re.findall(r"!\[([^\]]*)\]", README)
    assert len(pictures) >= 2
    assert all(len(alt) > 20 for alt in pictures)


def test_the_two_commands_are_there():
    assert "make notebooks" in README
    assert "make test" in README


@pytest.mark.parametrize(("seconds", "text"), [(3, "10 seconds"), (61, "70 seconds"), (111, "2 minutes")])
def test_times_are_rounded_up(seconds, text):
    assert about(seconds) == text


def test_a_run_fills_in_the_rows_of_the_table(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("report()")])
    notes = [
        {"figure": "03_line", "alt": "A line."},
        {"variant": "baseline", "accuracy": 0.875},
        {"gan": "first try", "frechet": 1402.0, "limit": 1500.0},
        {"gan": "repaired", "frechet": 1300.0, "limit": None},
        {"gan": "repaired", "frechet": 402.34, "limit": None},  # run again: the later one counts
    ]
    notebook.cells[0].outputs = [
        nbformat.v4.new_output("display_data", {"text/plain": "x"}, metadata={"gan_tutorial": note}) for note in notes
    ]
    nbformat.write(notebook, tmp_path / "03_net.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "04_new.ipynb")
    times, readme = tmp_path / "times.csv", tmp_path / "README.md"
    times.write_text("notebook,profile,seconds\n03_net,full,61.5\n03_net,quick,5\n")
    readme.write_text(
        "# Course\n\n| a | b | c | d |\n|---|---|---|---|\n"
        "| [03_net](notebooks/03_net.ipynb) | nets | 9 minutes | old 1% |\n"
        "| [04_new](notebooks/04_new.ipynb) | new |  |  |\nEnd\n"
    )
    fill_readme(readme, tmp_path, times)
    assert readme.read_text().splitlines()[4:] == [
        "| [03_net](notebooks/03_net.ipynb) | nets | 70 seconds | baseline 87.50%, Fréchet 402.3 (repaired) |",
        "| [04_new](notebooks/04_new.ipynb) | new |  |  |",
        "End",
    ]
