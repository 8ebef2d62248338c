"""The command `gan-tutorial`: what runs, checks and fetches; notebooks import none of it. Nothing heavy is here."""

from pathlib import Path


def checkout() -> Path | None:
    """Return the folder of the course's repository, or None where the package was installed without it."""
    root = Path(__file__).parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None
