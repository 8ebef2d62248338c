"""Fetching takes only verified files, says why a server failed, and never harms what was there."""

import hashlib
import json
import subprocess
import sys
import time

import pytest
from mnist_server import BODIES, serving

from gan_tutorial.data import IDX_NAMES, DataError, cache_folder, fetch

NAMES = [name for names in IDX_NAMES.values() for name in names]
FILES = {name: name.encode() * 1_000 for name in NAMES}
CSV_FILES = {"mnist_train.csv": b"1,2", "mnist_test.csv": b"3,4"}
CHECKSUMS = {name: hashlib.sha256(content).hexdigest() for name, content in (FILES | CSV_FILES).items()}
NOWHERE = "http://127.0.0.1:9/"  # nobody listens there


@pytest.fixture
def server():
    with serving(FILES) as (address, served):
        yield address, served


def fetch_from(address, *manners, timeout=5.0):
    return fetch([f"{address}{manner}/" for manner in manners], [], CHECKSUMS, timeout)


def files_in_cache():
    return {path.name: path.read_bytes() for path in cache_folder().iterdir() if path.suffix != ".lock"}


def test_good_files_are_kept_in_the_cache(server):
    paths = fetch_from(server[0], "good")
    assert paths == [cache_folder() / name for name in NAMES]
    assert files_in_cache() == FILES


def test_files_that_are_there_need_no_server(server):
    fetch_from(server[0], "good")
    assert fetch([NOWHERE], [], CHECKSUMS) == [cache_folder() / name for name in NAMES]
    assert set(server[1].values()) == {1}


def test_only_what_is_missing_or_damaged_is_fetched(server):
    address, served = server
    fetch_from(address, "good")
    (cache_folder() / NAMES[0]).unlink()
    (cache_folder() / NAMES[1]).write_bytes(b"damaged")
    fetch_from(address, "good")
    assert files_in_cache() == FILES
    assert [served[f"good/{name}"] for name in NAMES] == [2, 2, 1, 1]


def test_a_wrong_checksum_states_both_and_keeps_the_old_file(server):
    cache_folder().mkdir()
    (cache_folder() / NAMES[0]).write_bytes(b"old")
    with pytest.raises(DataError) as error:
        fetch_from(server[0], "wrong")
    assert f"expected {CHECKSUMS[NAMES[0]]}" in str(error.value)
    assert hashlib.sha256(BODIES["wrong"]).hexdigest() in str(error.value)
    assert files_in_cache() == {NAMES[0]: b"old"}


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("page", r"sent a web page \(HTML\)"),
        ("missing", "answered 404 Not Found"),
        ("short", "broke off"),
        ("stall", "did not answer in time"),
        ("silent", "no server answered"),
    ],
)
def test_a_bad_answer_is_named_and_nothing_is_kept(server, manner, reason):
    with pytest.raises(DataError, match=reason):
        fetch_from(server[0], manner, timeout=0.5)
    assert files_in_cache() == {}


@pytest.mark.parametrize("manner", ["missing", "page", "short", "stall", "silent", "wrong"])
def test_the_next_mirror_helps_out(server, manner):
    fetch_from(server[0], manner, "good", timeout=0.5)
    assert files_in_cache() == FILES


def test_a_mirror_without_connection_is_passed_over(server):
    fetch([NOWHERE, f"{server[0]}good/"], [], CHECKSUMS)
    assert files_in_cache() == FILES


def test_silent_servers_are_waited_for_together(server):
    mirrors = [f"{server[0]}silent/{i}/" for i in range(5)]
    start = time.monotonic()
    with pytest.raises(DataError, match="no server answered"):
        fetch(mirrors, mirrors, CHECKSUMS, timeout=0.5)
    assert time.monotonic() - start < 2  # one by one it would be 5


def test_csv_files_stand_in_when_no_mirror_has_the_idx_files():
    with serving(CSV_FILES) as (address, _):
        paths = fetch([f"{address}good/"], [f"{address}good/"], CHECKSUMS)
    assert {path.name: path.read_bytes() for path in paths} == CSV_FILES


def test_the_error_names_the_file_every_server_and_what_to_do(server):
    address, _ = server
    with pytest.raises(DataError) as error:
        fetch([f"{address}missing/", f"{address}page/"], [f"{address}missing/csv/"], CHECKSUMS)
    for part in (NAMES[0], "/missing/: ", "/page/: ", "/missing/csv/: ", "GAN_TUTORIAL_DATA", 'load_mnist("sample")'):
        assert part in str(error.value)


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"file/cache cannot be written .* GAN_TUTORIAL_CACHE"):
        fetch_from(server[0], "good")


def test_two_processes_at_once_fetch_each_file_once(server):
    address, served = server
    code = "import sys, json; from gan_tutorial.data import fetch; fetch(*json.loads(sys.argv[1]))"
    arguments = json.dumps([[f"{address}good/"], [], CHECKSUMS])
    processes = [subprocess.Popen([sys.executable, "-c", code, arguments]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert served == {f"good/{name}": 1 for name in NAMES}
    assert files_in_cache() == FILES
