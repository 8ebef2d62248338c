"""The command `gan-tutorial`: what runs, checks and fetches; notebooks import none of it. Nothing heavy is here."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def checkout() -> Path | None:
    """Return the folder of the course's repository, or None where the package was installed without it."""
    root = Path(__file__).parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


@contextlib.contextmanager
def closed_pipe_is_no_fault() -> Iterator[None]:
    """Once nobody reads standard output any more (``gan-tutorial run | head -1``), send it nowhere."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
