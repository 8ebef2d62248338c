"""The whole course runs in profile quick on the offline sample, with every figure in the manifest."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    output = tmp_path_factory.mktemp("quick")
    command = [sys.executable, "-m", "gan_tutorial.tools.cli", "run", "--profile", "quick", "--data", "sample"]
    result = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, check=False)
    return output, result


def test_the_run_succeeds(quick_run):
    _, result = quick_run
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_notebook_comes_out_executed(quick_run):
    output, _ = quick_run
    assert sorted(p.name for p in (output / "notebooks").glob("*.ipynb")) == [p.name for p in NOTEBOOKS]


def test_the_manifest_names_every_figure_with_its_checksum(quick_run):
    output, _ = quick_run
    entries = json.loads((output / "figures" / "manifest.json").read_text(encoding="utf-8"))["figures"]
    assert {entry["notebook"] for entry in entries} == {p.stem for p in NOTEBOOKS}
    for entry in entries:
        assert hashlib.sha256((output / "figures" / entry["png"]).read_bytes()).hexdigest() == entry["sha256"]
        assert (output / "figures" / entry["svg"]).stat().st_size > 0
        assert entry["alt"]


def test_the_table_shows_the_accuracies(quick_run):
    _, result = quick_run
    assert "baseline" in result.stdout
    assert "combination" in result.stdout
