"""What several test files need."""

import os
from pathlib import Path

import pytest
import torch

from gan_tutorial.data import load_mnist


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Keep tests away from the user's data: a cache of their own, and no classroom folder."""
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GAN_TUTORIAL_DATA", raising=False)


@pytest.fixture(scope="session")
def sample():
    """The offline sample: (training data, test data)."""
    return load_mnist("sample")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One CPU thread: results are equal to the last bit, and tests that run side by side do not fight for cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def official_folder():
    """A folder with the official MNIST files; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("GAN_TUTORIAL_DATA") or Path(__file__).parents[2] / "shared" / "mnist")
    if not folder.is_dir():
        pytest.skip("the official MNIST files are not here: name their folder in GAN_TUTORIAL_DATA")
    return folder
