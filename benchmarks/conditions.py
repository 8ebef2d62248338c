"""Under which conditions something was measured."""

import platform
from datetime import date
from importlib.metadata import version

import psutil
import torch


def conditions(package: str = "torch") -> dict:
    """Return the columns about versions, machine and date."""
    return {
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}"
        + (f", {package} {version(package)}" if package != "torch" else ""),
        "machine": platform.machine(),
        "cores": psutil.cpu_count(),
        "date": date.today().isoformat(),
    }
