"""Run every notebook in a process of its own and write the most memory it held to ``results/memory.csv``.

The profile is that of ``GAN_TUTORIAL_PROFILE``. What a notebook holds is the data, read whole in every profile; the
full one adds a few kept losses.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.conditions import conditions
from benchmarks.rows import ROOT

PROFILE = os.environ.get("GAN_TUTORIAL_PROFILE", "full")


def run(notebook: str) -> None:
    """Execute a notebook and print the largest memory, in MB, of any process that took part."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "papermill", notebook, f"{folder}/out.ipynb", "--cwd", folder]
        subprocess.run([*command, "--no-progress-bar", "-k", "python3"], check=True, capture_output=True)
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6)


def peak(notebook: Path) -> dict:
    """Return the row of a notebook, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", str(notebook)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"notebook": notebook.stem, "profile": PROFILE, "peak_mb": round(float(output))} | conditions()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(sys.argv[1])
    else:
        found = pd.DataFrame([peak(notebook) for notebook in sorted((ROOT / "notebooks").glob("*.ipynb"))])
        found.to_csv(ROOT / "results" / "memory.csv", index=False)
