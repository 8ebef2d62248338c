"""Fetching takes only verified files, says why a server failed, and never harms what was there."""

import contextlib
import hashlib
import json
import resource
import subprocess
import sys
import time

import pytest
from mnist_server import BODIES, serving

from gan_tutorial.data import IDX_NAMES, DataError, cache_folder, fetch

NAMES = [name for names in IDX_NAMES.values() for name in names]
FILES = {name: name.encode() * 1_000 for name in NAMES}
CHECKSUMS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
FETCH = "import sys, json; from gan_tutorial._sources import fetch; fetch(*json.loads(sys.argv[1]))"
NOWHERE = "http://127.0.0.1:9/"  # nobody listens there


@pytest.fixture
def server():
    with serving(FILES) as (address, served):
        yield address, served


def fetch_from(address, *manners, timeout=5.0):
    return fetch([f"{address}{manner}/" for manner in manners], CHECKSUMS, (timeout, timeout))


def child(code, *arguments):
    """Start a child process that has fetched nothing yet."""
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(arguments)])


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def files_in_cache():
    return {path.name: path.read_bytes() for path in cache_folder().iterdir() if path.suffix != ".lock"}


def test_good_files_are_kept_in_the_cache_and_then_need_no_server(server):
    expected = {cache_folder() / name: content for name, content in FILES.items()}
    assert fetch_from(server[0], "good") == expected
    assert files_in_cache() == FILES
    assert fetch([NOWHERE], CHECKSUMS) == expected
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
        ("page", r"a web page \(HTML\), perhaps one that asks to log in"),
        ("wrong", "is not the official file: its SHA-256 is"),
        ("missing", "404 Client Error: Not Found"),
        ("loop", "Exceeded 30 redirects"),
        ("short", "no answer, or one that broke off"),
        ("stall", "no answer, or one that broke off"),
        ("silent", "no answer, or one that broke off"),
    ],
)
def test_a_bad_answer_is_named_and_the_next_mirror_helps_out(server, manner, reason):
    address, served = server
    with pytest.raises(DataError, match=reason):
        fetch_from(address, manner, timeout=0.3)
    assert files_in_cache() == {}
    served.clear()
    fetch_from(address, manner, "good", timeout=0.3)
    assert files_in_cache() == FILES
    assert [name for name in served if name.startswith(manner)] == [f"{manner}/{NAMES[0]}"]  # it is not asked again


def test_two_silent_servers_cost_two_timeouts_not_eight(server):
    start = time.monotonic()
    with pytest.raises(DataError, match=r"silent/a/: no answer.*silent/b/: no answer"):
        fetch([f"{server[0]}silent/a/", f"{server[0]}silent/b/"], CHECKSUMS, (0.5, 0.5))
    assert time.monotonic() - start < 2


def test_the_error_names_every_server_and_what_to_do(server):
    with pytest.raises(DataError) as error:
        fetch([f"{server[0]}missing/", f"{server[0]}page/", NOWHERE], CHECKSUMS)
    parts = (f"/missing/{NAMES[0]}", f"/page/{NAMES[0]}", NOWHERE, "GAN_TUTORIAL_DATA", 'load_mnist("sample")')
    assert [part in str(error.value) for part in parts] == [True] * 5
    fetch([NOWHERE, f"{server[0]}good/"], CHECKSUMS)
    assert files_in_cache() == FILES


def test_a_fetch_that_is_killed_leaves_nothing_and_the_next_one_works(server):
    address, served = server
    process = child(FETCH, [f"{address}stall/"], CHECKSUMS)
    wait_until(lambda: served)
    time.sleep(0.2)  # by now half of the file has come
    process.kill()
    assert process.wait(10) == -9
    assert files_in_cache() == {}
    fetch_from(address, "good")
    assert files_in_cache() == FILES


def test_a_file_that_a_killed_fetch_was_writing_is_removed_by_the_next_one(server):
    code = """
import json, os, signal, sys
from pathlib import Path
from gan_tutorial._sources import replacing
with replacing(Path(json.loads(sys.argv[1])[0])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert child(code, str(cache_folder() / NAMES[1])).wait(30) == -9
    assert list(files_in_cache().values()) == [b"half"]
    fetch_from(server[0], "good")
    assert files_in_cache() == FILES


@contextlib.contextmanager
def full_disk(size):
    """No file may become larger than ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_no_half_file_stays(server):
    with full_disk(1_000), pytest.raises(DataError, match=r"cannot be written \(File too large\)"):
        fetch_from(server[0], "good")
    assert files_in_cache() == {}


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"file/cache cannot be written .* GAN_TUTORIAL_CACHE"):
        fetch_from(server[0], "good")


def test_two_processes_at_once_fetch_each_file_once(server):
    address, served = server
    processes = [child(FETCH, [f"{address}good/"], CHECKSUMS) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert served == {f"good/{name}": 1 for name in NAMES}
    assert files_in_cache() == FILES
