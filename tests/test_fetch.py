"""Fetching takes only verified files, says why a mirror failed, and never harms what was there."""

import hashlib
import json
import subprocess
import sys

import pytest
from mnist_server import serving

from gan_tutorial.data import DataError, cache_folder, fetch, fetch_file

FILE = "train-labels-idx1-ubyte.gz"
CONTENT = bytes(range(256)) * 40
CHECKSUMS = {FILE: hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture
def server():
    with serving({FILE: CONTENT}) as (address, served):
        yield address, served


def fetch_from(address, *manners, timeout=5.0):
    return fetch_file(FILE, tuple(f"{address}{manner}/" for manner in manners), CHECKSUMS, timeout)


def test_a_good_file_is_kept_in_the_cache(server):
    path = fetch_from(server[0], "good")
    assert path == cache_folder() / FILE
    assert path.read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_fetched_again(server):
    address, served = server
    fetch_from(address, "good")
    fetch_from(address, "good")
    assert sum(served.values()) == 1


def test_a_damaged_copy_in_the_cache_is_fetched_again(server):
    cache_folder().mkdir()
    (cache_folder() / FILE).write_bytes(b"damaged")
    assert fetch_from(server[0], "good").read_bytes() == CONTENT


def test_a_wrong_checksum_states_both_and_keeps_the_old_file(server):
    cache_folder().mkdir()
    (cache_folder() / FILE).write_bytes(b"old")
    with pytest.raises(DataError) as error:
        fetch_from(server[0], "wrong")
    assert CHECKSUMS[FILE] in str(error.value)
    assert hashlib.sha256(b"something else").hexdigest() in str(error.value)
    assert (cache_folder() / FILE).read_bytes() == b"old"


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("page", "web page"),
        ("missing", "answered 404"),
        ("short", "broke off"),
        ("stall", "did not answer in time"),
    ],
)
def test_a_bad_answer_is_named_and_nothing_is_kept(server, manner, reason):
    with pytest.raises(DataError, match=reason):
        fetch_from(server[0], manner, timeout=0.5)
    assert [path for path in cache_folder().iterdir() if path.suffix != ".lock"] == []


def test_no_connection_is_named():
    with pytest.raises(DataError, match="no connection"):
        fetch_from("http://127.0.0.1:9/", "good")


@pytest.mark.parametrize("manner", ["missing", "page", "short", "stall", "wrong"])
def test_the_next_mirror_helps_out(server, manner):
    assert fetch_from(server[0], manner, "good", timeout=0.5).read_bytes() == CONTENT


def test_the_error_says_what_to_do(server):
    with pytest.raises(DataError, match=r"GAN_TUTORIAL_DATA.*load_mnist\(\"sample\"\)"):
        fetch_from(server[0], "missing")


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot be written .* GAN_TUTORIAL_CACHE"):
        fetch_from(server[0], "good")


def test_two_processes_at_once_fetch_a_file_once(server):
    address, served = server
    code = "import sys, json; from gan_tutorial.data import fetch_file; fetch_file(*json.loads(sys.argv[1]))"
    arguments = json.dumps([FILE, [f"{address}good/"], CHECKSUMS, 5.0])
    processes = [subprocess.Popen([sys.executable, "-c", code, arguments]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert served == {f"/good/{FILE}": 1}
    assert (cache_folder() / FILE).read_bytes() == CONTENT


def test_csv_files_stand_in_when_no_mirror_has_the_idx_files():
    files = {"mnist_train.csv": b"1,2", "mnist_test.csv": b"3,4"}
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    checksums |= {name: "0" * 64 for name in IDX}
    with serving(files) as (address, _):
        paths = fetch((f"{address}good/",), (f"{address}good/",), checksums)
    assert [path.read_bytes() for path in paths] == [b"1,2", b"3,4"]


IDX = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
