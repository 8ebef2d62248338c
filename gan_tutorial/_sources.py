"""Where MNIST's bytes come from (folder, cache, download, sample), each checked; for `data` alone."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pooch

FOLDER_VARIABLE, CACHE_VARIABLE = "GAN_TUTORIAL_DATA", "GAN_TUTORIAL_CACHE"


class DataError(Exception):
    """What is wrong with the data, where, what was expected, and what to do."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the name ``path`` only when it is complete."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                yield file
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as problem:
        raise cannot_write(path.parent, problem) from None


def cannot_write(folder: Path, problem: OSError) -> DataError:
    """Return the error for a folder that cannot be written."""
    return DataError(
        f"The folder {folder} cannot be written ({problem.strerror or problem}). If it is the cache, name another one "
        f"in the environment variable {CACHE_VARIABLE}."
    )


def cache_folder() -> Path:
    """Return the folder for downloads: ``GAN_TUTORIAL_CACHE``, or the system's usual place for caches."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("gan_tutorial")).expanduser()
