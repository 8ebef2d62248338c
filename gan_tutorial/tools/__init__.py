"""The command `gan-tutorial`: what runs, checks and fetches; notebooks import none of it."""

from pathlib import Path


def checkout() -> Path | None:
    """Return the root of the repository that this package lies in, or None where it is installed without one."""
    root = Path(__file__).parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None
