"""Execute one notebook in a process of its own: `runner` starts this file and reads what it prints.

The task comes as one line of JSON on standard input, which stays open as long as the runner lives. One JSON line goes
out for each cell that starts, and one for a failure.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
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


def own_output() -> Callable[..., None]:
    """Return a function that tells the runner something, and keep standard output for it alone.

    The kernel inherits standard output, and what a cell writes there past IPython must not mix with the events.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**event: object) -> None:
        print(json.dumps(event), file=channel, flush=True)

    return say


def end_with_the_runner() -> None:
    """Wait until standard input ends, which it does with the runner, and then end this process and its kernel."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def execute(task: dict, say: Callable[..., None]) -> None:
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
        iopub_timeout=60,  # the default, 4 seconds, is too short on a busy machine
        on_cell_start=lambda cell, cell_index: say(cell=cell["id"], index=cell_index),
    )


def main() -> int:
    """Run the task on standard input; return 0, or 1 after telling what went wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, so that papermill shuts its kernel down
    say = own_output()
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_the_runner, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JUPYTER_PATH"] = own_kernel(folder)
        try:
            execute(task, say)
        except Exception as problem:
            say(error=type(problem).__name__, message=str(problem))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
