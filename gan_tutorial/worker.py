"""Execute one notebook in a process of its own: `runner` starts this file and reads what it prints.

The task comes as JSON on standard input; one JSON line goes out for each cell that starts, and one for a failure.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

KERNEL = "gan-tutorial-run"


def own_kernel(folder: str) -> str:
    """Describe this very interpreter as a Jupyter kernel below ``folder`` and return the path for JUPYTER_PATH.

    A kernel called python3 may belong to another environment; one that is made here cannot.
    """
    spec = Path(folder) / "kernels" / KERNEL / "kernel.json"
    spec.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": command, "display_name": KERNEL, "language": "python"}), encoding="utf-8")
    return folder


def say(**event: object) -> None:
    """Tell the runner something."""
    print(json.dumps(event), flush=True)


def execute(task: dict) -> None:
    """Run the notebook of ``task`` through papermill."""
    import papermill

    papermill.execute_notebook(
        task["notebook"],
        task["output"],
        task["parameters"],
        kernel_name=KERNEL,
        cwd=str(Path(task["notebook"]).parent),
        progress_bar=False,
        execution_timeout=task["timeout"],
        on_cell_start=lambda cell, cell_index: say(cell=cell["id"], index=cell_index),
    )


def main() -> int:
    """Run the task on standard input; return 0, or 1 after telling what went wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, so that papermill shuts its kernel down
    task = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JUPYTER_PATH"] = own_kernel(folder)
        try:
            execute(task)
        except Exception as problem:
            say(error=type(problem).__name__, message=str(problem))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
