"""Execute one notebook in a process of its own: `runner` starts this file, and reads the last line of its errors.

Arguments: the notebook, where its executed form goes, its parameters as JSON, and the seconds that a cell may take.
Standard input stays open as long as the runner lives.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import nbformat
import papermill
from ipykernel.kernelspec import write_kernel_spec
from nbformat import NotebookNode

_KERNEL = "gan-tutorial-run"  # one called python3 may belong to another environment; one that is made here cannot
_ADDED = {"injected-parameters", "papermill-error-cell-tag"}  # tags of the cells that papermill puts in
_REASONS = {
    "DeadKernelError": "the kernel died (see `gan-tutorial doctor`)",
    "CellTimeoutError": "the time limit of a cell has passed (see --timeout)",
}


def _end_with_the_runner() -> None:
    """Wait until standard input ends, which it does with the runner, and then end this process and its kernel."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _execute(source: str, output: str, parameters: str, timeout: str) -> str:
    """Run the notebook through papermill; return why that failed, or an empty string."""
    try:
        papermill.execute_notebook(
            source,
            output,
            json.loads(parameters),
            kernel_name=_KERNEL,
            cwd=str(Path(source).parent),
            progress_bar=False,
            execution_timeout=int(timeout),
            iopub_timeout=60,  # the default, 4 seconds, is too short on a busy machine
            coalesce_streams=True,  # where the kernel cuts printed text depends on the clock
        )
    except Exception as problem:
        kind = type(problem).__name__
        return _REASONS.get(kind) or f"{kind}: {problem}".splitlines()[0]
    return ""


def _has_begun(executed: Path) -> bool:
    """Tell whether a cell was started."""
    cells = nbformat.read(executed, as_version=4).cells if executed.exists() else []
    return any(cell.metadata.get("papermill", {}).get("start_time") for cell in cells)


def find_problem(executed: NotebookNode, reason: str = "") -> str:
    """Return one line on the first cell that raised an error or was left unrun, or an empty string.

    ``reason``, of a failure that no cell tells, counts for the last cell that was started.
    """
    number, last = 0, ""
    for cell in executed.cells:
        added = _ADDED & set(cell.metadata.get("tags", []))
        number += not added
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        place = "" if added else f" in cell {number} ({cell.source.strip().splitlines()[0][:60]})"
        for output in cell.outputs:
            if output.output_type == "error" and reason not in _REASONS.values():
                return f"failed{place}: " + f"{output.ename}: {output.evalue.strip()}".splitlines()[0]
        if cell.execution_count is None and not reason:
            return f"failed{place}: the cell was left unrun; did one before it end the kernel?"
        last = place if cell.metadata.get("papermill", {}).get("start_time") else last
    return f"failed{last}: {reason}" if reason else ""


def main() -> int:
    """Run the notebook, once more if its kernel did not start; return 0, or 1 after telling what went wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, so that papermill shuts its kernel down
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    executed = Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        write_kernel_spec(Path(folder, "kernels", _KERNEL))
        os.environ["JUPYTER_PATH"] = folder
        reason = _execute(*sys.argv[1:])
        if reason and not _has_begun(executed):
            reason = _execute(*sys.argv[1:])
    problem = find_problem(nbformat.read(executed, as_version=4), reason) if executed.exists() else f"failed: {reason}"
    print(problem, file=sys.stderr)
    return int(bool(problem))


if __name__ == "__main__":
    sys.exit(main())
