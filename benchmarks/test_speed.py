"""The cases: one function each. Ratio and target are of times: the course's over that of its opponent."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import loops
from benchmarks.by_hand import rank_one_step
from gan_tutorial.data import IDX_NAMES, MnistDataset, cache_folder, csv_file, load_mnist
from gan_tutorial.recipes import SEEDED, VARIANTS
from gan_tutorial.training import train

pytestmark = pytest.mark.timeout(0)  # a slow machine is no failure
EPOCH = 60_000


def fast_training(variant, digits, images):
    """Return a function that trains a variant on the fast path."""
    network = VARIANTS[variant]()
    return lambda: train(network, digits, epochs=1, images_per_epoch=images, fast=True)


# ---- image by image --------------------------------------------------------------------------------------------


def test_plain_step(compare, digits, threads):
    ours, theirs = loops.notebook_loop(digits, 400), loops.eager_loop(digits, 400)
    what = {"method": "plain step of notebook 03", "against": "shortest eager loop", "threads": threads}
    note = "400 images a round: the two are so close that many short rounds tell more"
    compare(ours, theirs, rounds=41, case="image by image", target=1.05, note=note, **what)


def test_fast_path_against_the_posts_loop(compare, digits, table, threads):
    ours, theirs = fast_training("baseline", digits, 1_000), loops.post_loop(table, 1_000)
    what = {"method": "fast path, baseline", "against": "the post's loop", "threads": threads}
    note = f"1,000 images a round; pandas holds the table in {loops.blocks(table.table)} block(s)"
    compare(ours, theirs, rounds=9, package="pandas", case="image by image", target=1 / 5, note=note, **what)


def test_whole_epoch(compare, digits, table):
    torch.set_num_threads(1)
    images = min(EPOCH, len(digits))
    ours, theirs = fast_training("baseline", digits, images), loops.post_loop(table, images)
    what = {"method": "fast path, baseline", "against": "the post's loop", "threads": 1}
    note = f"{images:,} images, once each: the short rounds do not flatter"
    compare(ours, theirs, rounds=1, package="pandas", case="one whole epoch", target=1 / 5, note=note, **what)


@pytest.mark.parametrize("variant", SEEDED)
def test_fast_path_against_a_step_written_by_hand(compare, digits, threads, variant):
    ours = fast_training(variant, digits, 1_000)
    theirs = loops.step_loop(rank_one_step(VARIANTS[variant](), variant), digits, 1_000)
    what = {"method": f"fast path, {variant}", "against": "in-place step by hand", "threads": threads}
    compare(ours, theirs, rounds=15, case="image by image", target=1.6, note="1,000 images a round", **what)


# ---- batches ---------------------------------------------------------------------------------------------------

BATCH_LOOPS = {
    "torch": ("DataLoader loop", loops.loader_loop, 1.0),
    "lightning": ("Lightning", loops.lightning_loop, 1 / 3),
    "skorch": ("skorch", loops.skorch_loop, 1 / 3),
    "fastai": ("fastai", loops.fastai_loop, 1 / 3),
}


@pytest.mark.parametrize("package", BATCH_LOOPS)
@pytest.mark.parametrize("step", ["closed-form step", "plain step"])
def test_batches_of_64(compare, digits, threads, package, step):
    if step == "plain step" and package != "torch":
        pytest.skip("the plain step is compared with PyTorch's own loop only")
    pytest.importorskip(package)
    against, make_loop, target = BATCH_LOOPS[package]
    images = min(EPOCH, len(digits))
    ours, theirs = loops.course_batches(digits, images, fast=step != "plain step"), make_loop(digits, images)
    what = {"method": f"slices, {step}", "against": against, "threads": threads, "case": "batches of 64"}
    compare(ours, theirs, 3, package, target=target, note=f"an epoch of {images:,} images a round", **what)


# ---- reading ---------------------------------------------------------------------------------------------------


def test_reading_the_csv(compare):
    file = csv_file("train")
    what = {"method": "MnistDataset(csv)", "against": "pandas.read_csv", "threads": 1}
    note = "ours checks every cell and gives tensors; pandas stops at the table"
    compare(
        lambda: MnistDataset(file),
        lambda: pd.read_csv(file, header=None),
        rounds=5,
        package="pandas",
        case="reading all of MNIST",
        target=1.6,
        note=note,
        **what,
    )


def test_reading_mnist_against_the_csv(compare):
    file = csv_file("train")
    what = {"method": "load_mnist()", "against": "pandas.read_csv", "threads": 1}
    note = "ours: training and test tensors, both verified; pandas: the training table"
    compare(
        load_mnist,
        lambda: pd.read_csv(file, header=None),
        rounds=5,
        package="pandas",
        case="reading all of MNIST",
        target=1 / 2,
        note=note,
        **what,
    )


def test_reading_mnist_against_torchvision(compare, tmp_path, digits):
    try:
        from torchvision.datasets import MNIST
    except (ImportError, RuntimeError) as problem:  # its compiled part was built for another PyTorch
        pytest.skip(f"torchvision cannot be imported: {problem}")
    unpack(tmp_path / "MNIST" / "raw")

    def theirs():
        data = MNIST(tmp_path, train=True)
        return data.data.reshape(-1, 784).float() / 255, torch.eye(10)[data.targets]

    what = {"method": "MnistDataset(idx)", "against": "torchvision", "threads": 1}
    source = next(p for p in mnist_files() if "train-images" in p.name)
    note = "ours unpacks the .gz and hashes it; torchvision reads what it unpacked once and hashes nothing"
    case = "reading all of MNIST"
    compare(lambda: MnistDataset(source), theirs, 9, "torchvision", case=case, target=2.5, note=note, **what)


def mnist_files():
    """Return the four IDX files, packed."""
    folder = Path(os.environ.get("GAN_TUTORIAL_DATA") or cache_folder())
    files = [folder / name for names in IDX_NAMES.values() for name in names]
    return files if all(file.is_file() for file in files) else pytest.skip("needs the IDX files of MNIST")


def unpack(folder):
    """Lay the files where torchvision looks for them."""
    folder.mkdir(parents=True)
    for file in mnist_files():
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))


# ---- importing -------------------------------------------------------------------------------------------------

LIBRARIES = "import torch, pandas, matplotlib.pyplot"
NOTEBOOK_IMPORTS = "from gan_tutorial import data, device, network, plots, training"
IMPORTS = {
    "import gan_tutorial": ("import gan_tutorial", LIBRARIES),
    "its modules as in notebooks 03 to 09": (NOTEBOOK_IMPORTS, LIBRARIES),
    "the same inside a kernel": (
        f"import ipykernel.kernelapp; {LIBRARIES}; {NOTEBOOK_IMPORTS}",
        f"import ipykernel.kernelapp; {LIBRARIES}",
    ),
}


@pytest.mark.parametrize("method", IMPORTS)
def test_importing(compare, method):
    ours, theirs = ([sys.executable, "-c", statement] for statement in IMPORTS[method])
    what = {"method": method, "against": "torch, pandas, matplotlib.pyplot", "threads": 1}
    compare(
        lambda: subprocess.run(ours, check=True),
        lambda: subprocess.run(theirs, check=True),
        rounds=5,
        case="importing",
        target=1.05,
        note="a whole process each",
        **what,
    )
