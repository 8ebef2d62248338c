"""A study keeps every finished run once, and goes on where it was stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import product

import pandas as pd
import psutil
import pytest
import torch
from distributed import Client, LocalCluster
from torch import nn

from gan_tutorial.recipes import FACTORIAL, IMPROVEMENTS, SEEDED, VARIANTS
from gan_tutorial.records import BANDS, KEY, RESULTS, STUDY, add_rows, read_table
from gan_tutorial.tools import study
from gan_tutorial.tools.cli import main
from gan_tutorial.tools.study import run_study

TINY = {"source": "sample", "epochs": 2, "images_per_epoch": 50}
RESULT = [*KEY, "epoch", "accuracy", "loss"]  # what a run gives wherever it is trained


def test_a_study_records_every_variant_and_skips_what_it_has(tmp_path):
    file = tmp_path / "study.csv"
    run_study(file, seeds=[0], **TINY)
    first = file.read_bytes()
    rows = pd.read_csv(file)
    assert set(rows["variant"]) == set(SEEDED)
    assert len(rows) == 2 * len(SEEDED)
    assert not rows.duplicated([*KEY, "epoch"]).any()
    run_study(file, seeds=[0], **TINY)
    assert file.read_bytes() == first
    run_study(file, seeds=[0, 1], **TINY)
    assert len(pd.read_csv(file)) == 4 * len(SEEDED)


def test_a_study_tells_each_finished_run_in_one_line(tmp_path, capsys):
    run_study(tmp_path / "study.csv", seeds=[0, 1], **TINY, variants=["Adam"])
    accuracies = pd.read_csv(tmp_path / "study.csv").query("epoch == 2")["accuracy"]
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert lines == [f"{k + 1} of 2: Adam, seed {k}: {accuracy:.2%}" for k, accuracy in enumerate(accuracies)]


def test_the_factorial_has_every_choice_of_the_four_improvements_once():
    assert len(FACTORIAL) == 2**4
    assert {frozenset(parts) for parts in FACTORIAL.values()} == {
        frozenset(part for part, chosen in zip(IMPROVEMENTS, flags, strict=True) if chosen)
        for flags in product([False, True], repeat=4)
    }
    assert FACTORIAL.items() >= SEEDED.items()


@pytest.mark.parametrize(("name", "parts"), FACTORIAL.items())
def test_each_network_of_the_factorial_is_made_of_its_parts(name, parts):
    network = VARIANTS[name]()
    layers = [type(layer) for layer in network.model]
    assert (type(network.loss_function) is nn.BCELoss) == ("BCELoss" in parts)
    assert isinstance(network.optimizer, torch.optim.Adam) == ("Adam" in parts)
    assert (nn.LayerNorm in layers) == ("LayerNorm" in parts)
    assert layers[1] is (nn.LeakyReLU if "LeakyReLU" in parts else nn.Sigmoid)
    leaky_output = "LeakyReLU" in parts and "BCELoss" not in parts
    assert layers[-1] is (nn.LeakyReLU if leaky_output else nn.Sigmoid)


def test_an_unknown_variant_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no variant 'adam'; choose from: baseline"):
        run_study(tmp_path / "study.csv", seeds=[0], **TINY, variants=["adam"])


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two worker processes on this machine."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The results of a study of three seeds, trained in this process."""
    file = tmp_path_factory.mktemp("here") / "study.csv"
    run_study(file, seeds=range(3), **TINY)
    return read_table(file, STUDY)


def executed(cluster):
    """How many tasks each worker has finished."""
    with Client(cluster.scheduler_address) as client:
        return client.run(lambda dask_worker: dask_worker.state.executed_count)


def test_a_cluster_trains_the_same_runs_and_no_row_is_lost_or_doubled(cluster, here, tmp_path):
    file = tmp_path / "study.csv"
    run_study(file, seeds=[1], **TINY)
    assert sum(executed(cluster).values()) == 0
    run_study(file, seeds=range(3), **TINY, scheduler=cluster.scheduler_address)
    assert all(count > 0 for count in executed(cluster).values())
    pd.testing.assert_frame_equal(read_table(file, STUDY)[RESULT], here[RESULT])


def test_a_cluster_with_nothing_left_to_do_changes_nothing(cluster, tmp_path):
    file = tmp_path / "study.csv"
    run_study(file, seeds=[0], **TINY, variants=["Adam"])
    first = file.read_bytes()
    run_study(file, seeds=[0], **TINY, variants=["Adam"], scheduler=cluster.scheduler_address)
    assert file.read_bytes() == first


def after_rows(monkeypatch, count, do):
    """Let ``do`` happen once, as soon as a study has added the rows of ``count`` runs."""
    added = []

    def add(file, rows):
        add_rows(file, rows)
        added.append(rows)
        if len(added) == count:
            do()

    monkeypatch.setattr(study, "add_rows", add)
    return added


def test_a_cluster_worker_killed_between_two_results_costs_no_row(cluster, here, tmp_path, monkeypatch):
    file, workers = tmp_path / "study.csv", list(cluster.workers.values())
    pids = [worker.process.process.pid for worker in workers]
    added = after_rows(monkeypatch, 2, lambda: os.kill(pids[0], signal.SIGKILL))
    run_study(file, seeds=range(3), **TINY, scheduler=cluster.scheduler_address)
    assert not psutil.pid_exists(pids[0])
    assert len(added) == 3 * len(SEEDED)  # each run came back once
    pd.testing.assert_frame_equal(read_table(file, STUDY)[RESULT], here[RESULT])


SCHEDULER = """
import time
from distributed import LocalCluster
if __name__ == "__main__":
    two = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "protocol": "tcp"}
    with LocalCluster(**two, dashboard_address=":0") as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(600)
"""


def test_a_scheduler_that_dies_is_told_in_one_line_and_the_finished_runs_are_kept(tmp_path, monkeypatch, capfd):
    file = tmp_path / "study.csv"
    with subprocess.Popen([sys.executable, "-c", SCHEDULER], stdout=subprocess.PIPE, text=True) as scheduler:
        address = scheduler.stdout.readline().strip()
        after_rows(monkeypatch, 2, scheduler.kill)
        options = ["--data", "sample", "--images", "1000", "--scheduler", address, "--output", str(file)]
        status = main(["study", *options])
        scheduler.kill()
    assert status == 1
    error = capfd.readouterr().err.splitlines()
    assert error == [
        f"gan-tutorial: error: The Dask scheduler at {address} has gone. What was finished is kept; "
        "start the cluster and then the study again."
    ]
    assert 2 <= len(read_table(file, STUDY)) / 4 < 5 * len(SEEDED)


def test_workers_with_several_threads_are_refused(tmp_path):
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        pytest.raises(ValueError, match="--nthreads 1"),
    ):
        run_study(tmp_path / "study.csv", seeds=[0], **TINY, scheduler=cluster.scheduler_address)
    assert not (tmp_path / "study.csv").exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "carrier-pigeon://loft", "127.0.0.1:many"])
def test_a_wrong_address_is_told_in_one_line(address, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(study, "CONNECT_SECONDS", 1)
    options = ["--data", "sample", "--output", str(tmp_path / "study.csv")]
    assert main(["study", *options, "--scheduler", address]) == 1
    error = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(error) == 1
    assert error[0].startswith(f"gan-tutorial: error: No Dask scheduler answers at '{address}'")


def test_a_killed_study_goes_on_and_loses_or_doubles_nothing(tmp_path):
    file = tmp_path / "study.csv"
    command = (
        "from pathlib import Path; from gan_tutorial.tools.study import run_study; import sys; "
        "run_study(Path(sys.argv[1]), 'sample', [0, 1, 2], epochs=2, images_per_epoch=200)"
    )
    study = subprocess.Popen([sys.executable, "-c", command, str(file)])
    while study.poll() is None and not file.exists():
        time.sleep(0.02)
    study.kill()
    study.wait()
    before = pd.read_csv(file)
    assert len(before) < 3 * 2 * len(SEEDED)
    subprocess.run([sys.executable, "-c", command, str(file)], check=True)
    after = pd.read_csv(file)
    assert len(after) == 3 * 2 * len(SEEDED)
    assert not after.duplicated([*KEY, "epoch"]).any()
    kept = after.merge(before, how="inner")  # the finished runs were not trained again: even their times are the same
    assert len(kept) == len(before)


STUDY_OF_TWO = """
import sys
from pathlib import Path
from gan_tutorial.tools.study import run_study
if __name__ == "__main__":
    run_study(Path(sys.argv[1]), "sample", range(30), epochs=4, images_per_epoch=2_000, jobs=2, variants=["baseline"])
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGHUP", "SIGINT"])
def test_the_workers_of_a_study_end_with_it_however_it_ends(tmp_path, name):
    if not hasattr(signal, name):
        pytest.skip(f"this system has no {name}")
    file = tmp_path / "study.csv"
    command = [sys.executable, "-c", STUDY_OF_TWO, str(file)]
    stopped = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while stopped.poll() is None and not file.exists():
        time.sleep(0.05)
    workers = psutil.Process(stopped.pid).children(recursive=True)
    assert len(workers) >= 2
    stopped.send_signal(getattr(signal, name))  # and nobody waits for it: even as a zombie it must count as gone
    _, alive = psutil.wait_procs(workers, timeout=10)
    stopped.wait(timeout=10)
    assert alive == []
    assert read_table(file, STUDY)["epoch"].max() == 4  # whole runs only


# ---- the command -----------------------------------------------------------------------------------------------


def test_the_command_trains_named_networks_into_a_file_and_writes_their_bands_beside_it(tmp_path):
    file = tmp_path / "new" / "study.csv"
    committed = {path: path.read_bytes() for path in RESULTS.iterdir() if path.suffix == ".csv"}
    options = ["--data", "sample", "--images", "50", "--seeds", "2", "--jobs", "1", "--output", str(file)]
    assert main(["study", "Adam", "BCELoss + Adam", *options]) == 0
    rows = read_table(file, STUDY)
    assert sorted(set(rows["variant"])) == ["Adam", "BCELoss + Adam"]
    assert (set(rows["seed"]), set(rows["epochs"]), set(rows["images_per_epoch"])) == ({0, 1}, {4}, {50})
    assert read_table(file.with_name("bands.csv"), BANDS)["variant"].tolist() == ["Adam", "BCELoss + Adam"]
    assert {path: path.read_bytes() for path in committed} == committed


def test_without_a_checkout_the_command_asks_for_a_file(monkeypatch, capsys):
    monkeypatch.setattr(study, "checkout", lambda: None)
    assert main(["study", "--data", "sample"]) == 1
    error = capsys.readouterr().err
    assert error == (
        "gan-tutorial: error: There is no checkout of the course here: name the file to add to with --output FILE.\n"
    )


def test_fewer_seeds_have_to_be_asked_for(tmp_path, capsys):
    file = tmp_path / "study.csv"
    options = ["study", "Adam", "--data", "sample", "--images", "50", "--jobs", "1", "--output", str(file)]
    assert main([*options, "--seeds", "3"]) == 0
    file.unlink()
    assert main([*options, "--seeds", "2"]) == 1
    assert "comes from 3 seeds" in capsys.readouterr().err
    assert main([*options, "--seeds", "2", "--fewer-seeds"]) == 0


def test_a_damaged_study_stops_the_command_before_anything_is_trained(tmp_path, capsys):
    file = tmp_path / "study.csv"
    shutil.copy(RESULTS / "study.csv", file)
    file.write_text(file.read_text()[:5_000])
    before = file.read_bytes()
    assert main(["study", "--data", "sample", "--output", str(file)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "expected" in output.err
    assert file.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    options = ["--data", "sample", "--images", "50", "--seeds", "1", "--jobs", "1"]
    assert main(["study", "Adam", *options, "--output", str(tmp_path / "file" / "study.csv")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("gan-tutorial: error: ")
    assert error.count("\n") == 1
