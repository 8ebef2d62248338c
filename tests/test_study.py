"""A study keeps every finished run once, and goes on where it was stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from distributed import Client, LocalCluster
from torch import nn

from gan_tutorial.data import MnistDataset
from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN
from gan_tutorial.recipes import FACTORIAL, IMPROVEMENTS, PARTS, RATES, SEEDED, VARIANTS
from gan_tutorial.records import BANDS, KEY, RESULTS, STUDY, add_rows, read_table
from gan_tutorial.tools import study
from gan_tutorial.tools.cli import main
from gan_tutorial.training import train

RESULT = [*KEY, "epoch", "accuracy", "loss"]  # what a run gives wherever it is trained
THREE = ["baseline", "Adam", "combination"]


def run_study(file, *options, seeds=1, images=20, status=0):
    """Train in this process, unless ``options`` say otherwise, and return all runs that the file then holds."""
    tiny = ["--data", "sample", "--images", str(images), "--seeds", str(seeds), "--output", str(file)]
    jobs = [] if "--scheduler" in options else ["--jobs", "1"]
    assert main(["study", *options, *tiny, *jobs]) == status
    return read_table(file, STUDY) if file.exists() else None


def test_a_study_records_every_variant_and_skips_what_it_has(tmp_path):
    file = tmp_path / "study.csv"
    rows = run_study(file)
    first = file.read_bytes()
    assert set(rows["variant"]) == set(SEEDED)
    assert len(rows) == 4 * len(SEEDED)
    assert not rows.duplicated([*KEY, "epoch"]).any()
    run_study(file)
    assert file.read_bytes() == first
    both = run_study(file, seeds=2)
    assert len(both) == 8 * len(SEEDED)
    pd.testing.assert_frame_equal(both.query("seed == 0").reset_index(drop=True), rows)  # also the times: not again


def test_a_study_tells_each_finished_run_in_one_line(tmp_path, capsys):
    accuracies = run_study(tmp_path / "study.csv", "Adam", seeds=2).query("epoch == 4")["accuracy"]
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert lines == [f"{k + 1} of 2: Adam, seed {k}: {accuracy:.2%}" for k, accuracy in enumerate(accuracies)]


def test_the_factorial_has_every_choice_of_the_four_improvements_once():
    assert len(FACTORIAL) == 2**4
    assert {frozenset(parts) for parts in FACTORIAL.values()} == {
        frozenset(part for part, chosen in zip(IMPROVEMENTS, flags, strict=True) if chosen)
        for flags in product([False, True], repeat=4)
    }


@pytest.mark.parametrize(("name", "parts"), PARTS.items())
def test_each_network_is_made_of_its_parts(name, parts):
    network = VARIANTS[name]()
    layers = [type(layer) for layer in network.model]
    assert (type(network.loss_function) is nn.BCELoss) == ("BCELoss" in parts)
    assert isinstance(network.optimizer, torch.optim.Adam) == ("Adam" in parts)
    assert (nn.LayerNorm in layers) == ("LayerNorm" in parts)
    assert layers[1] is (nn.LeakyReLU if "LeakyReLU" in parts else nn.Sigmoid)
    assert layers[-1] is (nn.LeakyReLU if "leaky output" in parts else nn.Sigmoid)
    assert network.optimizer.param_groups[0]["lr"] == (0.001 if "Adam" in parts else 0.01)


def test_a_leaky_output_is_named_and_never_scored_by_the_cross_entropy():
    leaky_at_the_output = {name for name, parts in PARTS.items() if "leaky output" in parts}
    assert leaky_at_the_output == {
        "leaky output",
        "LeakyReLU",
        "LayerNorm",
        "LeakyReLU + Adam",
        "LeakyReLU + Adam + LayerNorm",
    }
    assert not any("BCELoss" in PARTS[name] for name in leaky_at_the_output)


def test_the_map_of_rates_has_six_or_more_for_each_of_the_seven_networks():
    counts = Counter(name.split(", rate ")[0] for name in RATES)
    assert counts.keys() == SEEDED.keys()
    assert min(counts.values()) == 6
    for name in ("BCELoss, rate 0.3", "combination, rate 0.0003"):
        variant, rate = name.split(", rate ")
        groups = RATES[name]().optimizer.param_groups, VARIANTS[variant]().optimizer.param_groups
        rest = [{key: value for key, value in group[0].items() if key not in ("lr", "params")} for group in groups]
        assert (groups[0][0]["lr"], rest[0]) == (float(rate), rest[1])


def test_every_sixth_pair_of_training_images_is_held_out(sample):
    labels, images, targets = sample[0][:15]
    fifteen = MnistDataset.from_arrays(labels.numpy(), (255 * images).round().numpy(), "some")
    training, held_out = study.hold_out(fifteen)
    assert held_out.labels.tolist() == labels[[0, 1, 12, 13]].tolist()
    assert torch.equal(training.images, images[[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14]])
    assert torch.equal(held_out.targets, targets[[0, 1, 12, 13]])
    assert {training.name, held_out.name} == {"some, held out"}


def test_the_study_of_rates_reads_the_images_held_out_alone(tmp_path, sample):
    file = tmp_path / "rates.csv"
    rows = run_study(file, "--rates", "BCELoss, rate 0.3")
    training, held_out = study.hold_out(sample[0])
    set_seed(0)
    network = ANN(loss_function=nn.BCELoss, optimizer=partial(torch.optim.SGD, lr=0.3))
    history = train(network, training, 4, 20, test_data=held_out, fast=True, quiet=True)
    assert rows["accuracy"].tolist() == [epoch.accuracy for epoch in history]
    assert set(rows["data"]) == {"MNIST sample, held out"}
    assert not (tmp_path / "bands.csv").exists()


def test_answers_are_the_digits_of_the_largest_scores(tmp_path, sample):
    file = tmp_path / "answers.npz"
    tiny = ["--data", "sample", "--images", "500", "--jobs", "1", "--output", str(file)]
    assert main(["study", "--answers", "BCELoss", *tiny]) == 0
    set_seed(0)
    network = ANN(loss_function=nn.BCELoss)
    train(network, sample[0], 4, 500, fast=True, quiet=True)
    with torch.no_grad():
        scores = network(sample[1].images)
    answers = np.load(file)
    assert sorted(answers) == ["BCELoss/answers", "BCELoss/scores"]
    assert torch.equal(torch.tensor(answers["BCELoss/answers"]), scores.argmax(dim=1).to(torch.uint8))
    assert torch.equal(torch.tensor(answers["BCELoss/scores"]), scores.amax(dim=1))


def test_an_unknown_variant_is_refused(tmp_path, capsys):
    assert run_study(tmp_path / "study.csv", "adam", status=1) is None
    assert "no variant 'adam'; choose from: baseline" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two worker processes on this machine."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The results of a study of three networks and three seeds, trained in this process."""
    return run_study(tmp_path_factory.mktemp("here") / "study.csv", *THREE, seeds=3)


def executed(cluster):
    """How many tasks each worker has finished."""
    with Client(cluster.scheduler_address) as client:
        return client.run(lambda dask_worker: dask_worker.state.executed_count)


def test_a_cluster_trains_what_is_missing_and_no_row_is_lost_or_doubled(cluster, here, tmp_path):
    file, there = tmp_path / "study.csv", ["--scheduler", cluster.scheduler_address]
    run_study(file, *THREE)
    assert sum(executed(cluster).values()) == 0
    rows = run_study(file, *THREE, *there, seeds=3)
    assert all(count > 0 for count in executed(cluster).values())
    pd.testing.assert_frame_equal(rows[RESULT], here[RESULT])
    before = file.read_bytes(), sum(executed(cluster).values())
    run_study(file, *THREE, *there, seeds=3)  # nothing is left to do
    assert (file.read_bytes(), sum(executed(cluster).values())) == before


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
    rows = run_study(file, *THREE, "--scheduler", cluster.scheduler_address, seeds=3)
    assert not psutil.pid_exists(pids[0])
    assert len(added) == 9  # each run came back once
    pd.testing.assert_frame_equal(rows[RESULT], here[RESULT])


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
        rows = run_study(file, "--scheduler", address, seeds=9, images=200, status=1)
        scheduler.kill()
    error = capfd.readouterr().err.splitlines()
    assert error == [
        f"gan-tutorial: error: The Dask scheduler at {address} has gone. What was finished is kept; "
        "start the cluster and then the study again."
    ]
    assert 2 * 4 <= len(rows) < 9 * 4 * len(SEEDED)  # whole runs, not all of them
    assert len(rows) % 4 == 0


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (2, 2)])
def test_a_cluster_of_one_worker_or_of_several_threads_a_worker_is_refused(workers, threads, tmp_path, capfd):
    options = {"n_workers": workers, "threads_per_worker": threads, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster:
        assert run_study(tmp_path / "study.csv", "--scheduler", cluster.scheduler_address, status=1) is None
    assert "needs two workers of one thread each: use --nthreads 1." in capfd.readouterr().err


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "carrier-pigeon://loft", "127.0.0.1:many"])
def test_a_wrong_address_is_told_in_one_line(address, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(study, "CONNECT_SECONDS", 1)
    run_study(tmp_path / "study.csv", "--scheduler", address, status=1)
    error = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(error) == 1
    assert error[0].startswith(f"gan-tutorial: error: No Dask scheduler answers at '{address}'")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])  # Ctrl-C and SIGHUP go SIGTERM's way (see test_runner)
def test_the_workers_of_a_stopped_study_end_with_it_and_it_goes_on_without_a_lost_or_doubled_row(tmp_path, name):
    if not hasattr(signal, name):
        pytest.skip(f"this system has no {name}")
    file = tmp_path / "study.csv"
    options = ["study", *THREE, "--data", "sample", "--images", "200", "--seeds", "50", "--jobs", "2"]
    command = [sys.executable, "-m", "gan_tutorial.tools.cli", *options, "--output", str(file)]
    study = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while study.poll() is None and not file.exists():
        time.sleep(0.01)
    workers = psutil.Process(study.pid).children(recursive=True)
    assert len(workers) >= 2
    study.send_signal(getattr(signal, name))  # and nobody waits for it: even as a zombie it must count as gone
    _, alive = psutil.wait_procs(workers, timeout=10)
    study.wait(timeout=10)
    assert alive == []
    before = read_table(file, STUDY)  # whole runs only, or it could not be read
    seeds = before["seed"].max() + 2
    after = run_study(file, *THREE, seeds=seeds, images=200)
    assert len(before) < len(after) == 4 * len(THREE) * seeds
    assert not after.duplicated([*KEY, "epoch"]).any()
    assert len(after.merge(before, how="inner")) == len(before)  # nothing was trained again: the times are the same


# ---- the command -----------------------------------------------------------------------------------------------


def test_the_command_trains_named_networks_into_a_file_and_writes_their_bands_beside_it(tmp_path):
    file = tmp_path / "new" / "study.csv"
    committed = {path: path.read_bytes() for path in RESULTS.iterdir() if path.suffix == ".csv"}
    rows = run_study(file, "Adam", "BCELoss + Adam", seeds=2)
    assert sorted(set(rows["variant"])) == ["Adam", "BCELoss + Adam"]
    assert (set(rows["seed"]), set(rows["epochs"]), set(rows["images_per_epoch"])) == ({0, 1}, {4}, {20})
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
    run_study(file, "Adam", seeds=3)
    file.unlink()
    run_study(file, "Adam", seeds=2, status=1)
    assert "comes from 3 seeds" in capsys.readouterr().err
    run_study(file, "Adam", "--fewer-seeds", seeds=2)


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
    run_study(tmp_path / "file" / "study.csv", "Adam", status=1)
    error = capsys.readouterr().err
    assert error.startswith("gan-tutorial: error: ")
    assert error.count("\n") == 1
