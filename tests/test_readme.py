"""The README's table and every notebook's running time say what the recorded runs say."""

import csv
import re
import statistics
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WORDS = r"(\d+) (seconds|minutes)"


def seconds(path, profile):
    """The recorded time of a notebook, read here without the code that writes it."""
    with (ROOT / "gan_tutorial" / "results" / "times.csv").open(encoding="utf-8", newline="") as lines:
        found = [row for row in csv.DictReader(lines) if (row["notebook"], row["profile"]) == (path.stem, profile)]
    assert len(found) == 1
    return float(found[0]["seconds"])


def is_about(number, unit, exact):
    """Tell whether a time in words is the exact one rounded up: by less than 10 seconds, or by less than a minute."""
    step = {"seconds": 10, "minutes": 60}[unit]
    said = int(number) * (60 if unit == "minutes" else 1)
    return said - step < exact <= said


def cells_of_row(path):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| [{path.stem}](notebooks/{path.name})")]
    return [part.strip() for part in line.strip("| ").split("|")]


def stored_texts(path):
    """The plain texts of all stored outputs."""
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_time_in_the_table_is_the_recorded_one(path):
    assert is_about(*re.fullmatch(WORDS, cells_of_row(path)[2]).groups(), seconds(path, "full"))


def over_seeds(name):
    """Mean and standard deviation of the recorded accuracies of a network, read here without the course's code."""
    setting = {"variant": name, "data": "MNIST", "epochs": "4", "images_per_epoch": "60000", "epoch": "4"}
    with (ROOT / "gan_tutorial" / "results" / "study.csv").open(encoding="utf-8", newline="") as lines:
        runs = [float(row["accuracy"]) for row in csv.DictReader(lines) if row.items() >= setting.items()]
    return f"{100 * statistics.mean(runs):.2f}% ± {100 * statistics.stdev(runs):.2f}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_table_tells_mean_and_spread_of_the_networks_and_the_best_gan_that_a_notebook_shows(path):
    results = cells_of_row(path)[3] if len(cells_of_row(path)) > 3 else ""
    shown = stored_texts(path)
    reported = re.findall(r"^(.+): \d+\.\d\d% of [\d,]+ test images right", shown, flags=re.MULTILINE)
    distances = {
        name: float(distance)
        for name, distance in re.findall(r"^(.+): Fréchet distance ([\d.]+),", shown, flags=re.MULTILINE)
    }
    expected = [f"{name} {over_seeds(name)}" for name in dict.fromkeys(reported)]
    if distances:
        nearest = min(distances, key=distances.get)
        expected.append(f"Fréchet {distances[nearest]:.1f} ({nearest})")
    assert results == ", ".join(expected)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_running_time_in_the_notebook_is_the_recorded_one(path):
    text = nbformat.read(path, as_version=4).cells[0].source
    found = re.search(rf"^\*\*Running time:\*\* {WORDS}; in profile quick {WORDS}$", text, flags=re.MULTILINE)
    assert is_about(*found.groups()[:2], seconds(path, "full"))
    assert is_about(*found.groups()[2:], seconds(path, "quick"))


def test_pictures_and_links_exist_and_pictures_have_alt_text():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    files = [link.split("#")[0] for link in links if not link.startswith("http")]
    assert [link for link in files if not (ROOT / link).exists()] == []
    pictures = re.findall(r"!\[([^\]]*)\]", README)
    assert len(pictures) >= 2
    assert all(len(alt) > 20 for alt in pictures)


def test_the_two_commands_are_there():
    assert "make notebooks" in README
    assert "make test" in README
