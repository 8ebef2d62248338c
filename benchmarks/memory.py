"""How much memory each notebook holds at most: run the course, watch its kernels, write ``benchmarks/memory.csv``.

``python -m benchmarks.memory full`` takes as long as ``make notebooks``; ``quick`` is the other profile. Linux only:
there the system keeps the peak of each process, so nothing is missed between two looks.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from benchmarks.conditions import conditions
from benchmarks.rows import ROOT


def peaks(run: psutil.Process) -> dict[str, float]:
    """Return the peak memory so far, in MB, of each kernel below ``run``, by the name of its notebook."""
    found = {}
    for process in run.children(recursive=True):
        try:
            notebook = Path(process.environ().get("GAN_TUTORIAL_FIGURES", "")).name
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except (psutil.Error, OSError):  # it has just ended
            continue
        if notebook and (peak := re.search(r"VmHWM:\s+(\d+) kB", status)):
            found[notebook] = max(found.get(notebook, 0.0), int(peak[1]) * 1024 / 1e6)
    return found


def watch(command: list[str]) -> dict[str, float]:
    """Run ``command`` and return the peak memory of each of its notebooks, in MB."""
    highest: dict[str, float] = {}
    with subprocess.Popen(command) as run:
        while run.poll() is None:
            for notebook, peak in peaks(psutil.Process(run.pid)).items():
                highest[notebook] = max(highest.get(notebook, 0.0), peak)
            time.sleep(0.2)
    if run.returncode:
        raise SystemExit(f"The course did not run through (exit code {run.returncode}); nothing was written.")
    return highest


if __name__ == "__main__":
    profile = sys.argv[1] if len(sys.argv) > 1 else "quick"
    with tempfile.TemporaryDirectory() as folder:
        run_course = [sys.executable, "-m", "gan_tutorial.tools.cli", "run", "--profile", profile]
        measured = watch(sys.argv[2:] or [*run_course, "--output", folder])
    rows = [{"notebook": name, "profile": profile, "peak_mb": round(measured[name])} for name in sorted(measured)]
    pd.DataFrame([row | conditions() for row in rows]).to_csv(ROOT / "benchmarks" / "memory.csv", index=False)
