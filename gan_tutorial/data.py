"""MNIST as tensors, read once (notebook 02); where the bytes come from is `_sources`."""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gan_tutorial import _sources, plots
from gan_tutorial._sources import DIGITS, FOLDER_VARIABLE, IDX_NAMES, PIXELS, DataError, cache_folder, fetch, replacing

MNIST, SAMPLE = "MNIST", "MNIST sample"  # the names of the data
_Download = Callable[[], dict[Path, bytes]]  # what gets the missing files, and returns all of them


class MnistDataset(torch.utils.data.Dataset):
    """Pictures of digits as tensors on ``device``, read once from a file (notebook 02): ``*.csv`` or ``*.csv.gz`` (a
    label and 784 pixels a line), or ``*-images-idx3-ubyte.gz`` with its labels file beside it. A `DataError` says what
    is wrong with a file, and where. The attributes are:
        labels: int64 (n,), 0 to 9.
        images: float32 (n, 784), 0 (black) to 1.
        targets: float32 (n, 10), one-hot.
        name: of the file; ``"MNIST"`` or ``"MNIST sample"`` when it comes from `load_mnist`.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        self._fill(*_sources.read_digits(Path(path)), Path(path).name, device)

    @classmethod
    def from_arrays(cls, labels: np.ndarray, pixels: np.ndarray, name: str, device: torch.device | str = "cpu") -> Self:
        """Make a data set of arrays: labels (n,) and pixels (n, 784), both uint8."""
        dataset = cls.__new__(cls)
        dataset._fill(labels, pixels, name, device)
        return dataset

    def _fill(self, labels: np.ndarray, pixels: np.ndarray, name: str, device: torch.device | str) -> None:
        self.name = name
        self.labels = torch.tensor(labels, dtype=torch.int64, device=device)
        rows = np.ascontiguousarray(pixels).reshape(-1, PIXELS)  # pandas lays columns in one piece of memory
        self.images = torch.from_numpy(np.divide(rows, np.float32(255), dtype=np.float32)).to(device)
        self.targets = torch.eye(DIGITS, device=device)[self.labels]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int | slice | Tensor) -> tuple[int | Tensor, Tensor, Tensor]:
        """Return (label, image values, target) of one image, or of a batch for a slice or an index tensor."""
        label = self.labels[index]
        return int(label) if label.ndim == 0 else label, self.images[index], self.targets[index]

    def plot_image(self, index: int) -> Figure:
        """Draw one image with its label as the title."""
        return plots.plot_images(self.images[[index]].cpu(), [str(self.labels[index].item())], columns=1)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the labels and then the pixels as bytes: the same for every form of the same data."""
        labels, pixels = as_bytes(self)
        return hashlib.sha256(labels.tobytes() + pixels.tobytes()).hexdigest()


def as_bytes(dataset: MnistDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and pixels (n, 784) as the uint8 that they were read from."""
    pixels = (dataset.images.cpu() * 255).round().to(torch.uint8)
    return dataset.labels.cpu().numpy().astype(np.uint8), pixels.numpy()


def load_mnist(
    source: str = "auto", device: torch.device | str = "cpu", download: _Download = fetch
) -> tuple[MnistDataset, MnistDataset]:
    """Return the training and the test data, and print in one line where they come from (notebook 02).

    ``source`` is ``"folder"`` (named by ``GAN_TUTORIAL_DATA``), ``"cache"``, ``"download"``, ``"sample"`` (5,000 real
    digits, offline), a folder's path, or ``"auto"``: the first that has the data. A `DataError` says what is wrong.
    """
    found, digits = _sources.find(source, download)
    print(notice(found, asked_for=source))
    name = SAMPLE if found == "sample" else MNIST
    train, test = (MnistDataset.from_arrays(*digits[part], name, device) for part in IDX_NAMES)
    return train, test


def resolve_source(source: str = "auto", download: _Download = fetch) -> str:
    """Return the source that `load_mnist` would take: folder, cache, sample, or a folder's path; raises as it does."""
    return _sources.find(source, download)[0]


def notice(source: str, asked_for: str = "auto") -> str:
    """Return the line that tells which data are used."""
    if source != "sample":
        places = {"folder": f"the folder named by {FOLDER_VARIABLE}", "cache": "the cache of downloads"}
        where = "a download" if asked_for == "download" else places.get(source, "the folder asked for")
        return f"Data: all of MNIST (60,000 training and 10,000 test images) from {where}."
    line = "Data: the MNIST sample (4,000 training and 1,000 test images)"
    if asked_for == "sample":
        return f"{line}."
    if os.environ.get(FOLDER_VARIABLE) == "sample":
        return f"{line}, asked for by {FOLDER_VARIABLE}."
    advice = f"run `gan-tutorial data --fetch` when online, or set {FOLDER_VARIABLE}"
    return f"{line}, because no download worked. For all of MNIST: {advice}."


def write_csv(dataset: MnistDataset, path: str | Path) -> None:
    """Write the CSV form of a data set (of all of MNIST, that of the post), or raise a `DataError` and keep the old."""
    with replacing(Path(path)) as file:
        file.writelines(_csv_chunks(dataset))


def _csv_chunks(dataset: MnistDataset) -> Iterator[bytes]:
    """Yield the CSV form of a data set, some thousand rows at a time."""
    inner, last = (np.array([b"%d%s" % (value, end) for value in range(256)]) for end in (b",", b"\n"))
    for rows in np.array_split(np.column_stack(as_bytes(dataset)), 1 + len(dataset) // 5_000):
        cells = inner[rows]
        cells[:, -1] = last[rows[:, -1]]
        yield cells.tobytes().replace(b"\0", b"")  # numpy fills short cells up with zero bytes


def csv_file(part: str = "train", source: str = "auto", download: _Download = fetch) -> Path:
    """Return the path of the verified CSV of ``"train"`` or ``"test"`` in the cache (notebook 02), written if there
    is none or a changed one. A `DataError` says if the source lacks the data, or the cache cannot be written.
    """
    if part not in IDX_NAMES:
        raise DataError(f"There is no part {part!r} of MNIST. Choose one of {', '.join(IDX_NAMES)}.")
    found, digits = _sources.find(source, download)
    dataset, name, checksums = MnistDataset.from_arrays(*digits[part], part), f"mnist_{part}.csv", _sources.OFFICIAL
    if found == "sample":
        checksums = {name: hashlib.sha256(b"".join(_csv_chunks(dataset))).hexdigest()}
    path = cache_folder() / "csv" / ("sample" if found == "sample" else "all") / name
    try:
        _sources.read_official(path, checksums)
    except DataError:  # there is none, or a changed one
        write_csv(dataset, path)
    return path
