"""A study keeps every finished run once, and goes on where it was stopped."""

import shutil
import subprocess
import sys
import time
from itertools import product

import pandas as pd
import pytest
import torch
from distributed import Client, LocalCluster
from torch import nn

from gan_tutorial.recipes import FACTORIAL, IMPROVEMENTS, SEEDED, VARIANTS
from gan_tutorial.records import (
    KEY,
    RESULTS,
    SETTINGS,
    add_rows,
    expected_accuracy,
    finished_runs,
    read_runs,
    write_bands,
)
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


def executed(cluster):
    """How many tasks each worker has finished."""
    with Client(cluster.scheduler_address) as client:
        return client.run(lambda dask_worker: dask_worker.state.executed_count)


def test_a_cluster_trains_the_same_runs_and_no_row_is_lost_or_doubled(cluster, tmp_path):
    file = tmp_path / "study.csv"
    run_study(file, seeds=[1], **TINY)
    assert sum(executed(cluster).values()) == 0
    run_study(file, seeds=range(4), **TINY, scheduler=cluster.scheduler_address)
    assert all(count > 0 for count in executed(cluster).values())
    rows = pd.read_csv(file)
    assert len(rows) == 4 * 2 * len(SEEDED)
    assert not rows.duplicated([*KEY, "epoch"]).any()
    run_study(tmp_path / "here.csv", seeds=range(4), **TINY)
    pd.testing.assert_frame_equal(rows[RESULT], pd.read_csv(tmp_path / "here.csv")[RESULT])


def test_a_cluster_with_nothing_left_to_do_changes_nothing(cluster, tmp_path):
    file = tmp_path / "study.csv"
    run_study(file, seeds=[0], **TINY, variants=["Adam"])
    first = file.read_bytes()
    run_study(file, seeds=[0], **TINY, variants=["Adam"], scheduler=cluster.scheduler_address)
    assert file.read_bytes() == first


def test_workers_with_several_threads_are_refused(tmp_path):
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        pytest.raises(ValueError, match="--nthreads 1"),
    ):
        run_study(tmp_path / "study.csv", seeds=[0], **TINY, scheduler=cluster.scheduler_address)
    assert not (tmp_path / "study.csv").exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "carrier-pigeon://loft", "127.0.0.1:many"])
def test_a_wrong_address_is_told_in_one_line(address, monkeypatch, capfd):
    monkeypatch.setattr(study, "CONNECT_SECONDS", 1)
    assert main(["study", "--data", "sample", "--scheduler", address]) == 1
    error = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(error) == 1
    assert error[0].startswith(f"gan-tutorial: error: No Dask scheduler answers at '{address}'")


def test_read_runs_picks_one_setting_and_the_last_file_counts(tmp_path):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    pd.concat([runs([0.881, 0.882]), runs([0.5]).assign(images_per_epoch=1_500)]).to_csv(old, index=False)
    runs([0.883]).to_csv(new, index=False)
    assert sorted(read_runs(old)["accuracy"]) == [0.881, 0.882]
    assert read_runs(old, new).sort_values("seed")["accuracy"].tolist() == [0.883, 0.882]
    assert read_runs(old, images_per_epoch=1_500)["accuracy"].tolist() == [0.5]


def test_read_runs_tells_what_is_recorded(tmp_path):
    runs([0.881]).to_csv(tmp_path / "study.csv", index=False)
    with pytest.raises(ValueError, match=r"\('MNIST', 4, 300\); recorded are \('MNIST', 4, 60000\)"):
        read_runs(tmp_path / "study.csv", images_per_epoch=300)


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


def test_rows_without_a_key_are_refused_and_the_file_stays(tmp_path):
    file = tmp_path / "study.csv"
    add_rows(file, pd.DataFrame([dict.fromkeys([*KEY, "epoch"], 1)]))
    before = file.read_bytes()
    with pytest.raises(ValueError, match="seed"):
        add_rows(file, pd.DataFrame([{"variant": "baseline"}]))
    assert file.read_bytes() == before
    assert finished_runs(file) == {(1, 1, 1, 1, 1)}


def runs(accuracies):
    """Rows of finished runs with these accuracies, one a seed."""
    settings = {"variant": "baseline", "data": "MNIST", "epochs": 4, "images_per_epoch": 60_000}
    return pd.DataFrame([settings | {"seed": i, "epoch": 4, "accuracy": a} for i, a in enumerate(accuracies)])


def test_a_band_is_the_range_seen_widened_by_a_point_and_rounded_outwards(tmp_path):
    runs([0.881, 0.882, 0.883]).to_csv(tmp_path / "study.csv", index=False)
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert expected_accuracy("baseline", "MNIST", 4, 60_000, tmp_path / "bands.csv") == (0.87, 0.895)


def test_a_band_grows_with_the_scatter_of_the_seeds(tmp_path):
    runs([0.80, 0.82, 0.84]).to_csv(tmp_path / "study.csv", index=False)  # standard deviation 0.02
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert expected_accuracy("baseline", "MNIST", 4, 60_000, tmp_path / "bands.csv") == (0.74, 0.9)


def test_only_the_last_epoch_counts_for_a_band(tmp_path):
    early = runs([0.1, 0.2]).assign(epoch=1)
    pd.concat([early, runs([0.88, 0.88])]).to_csv(tmp_path / "study.csv", index=False)
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert expected_accuracy("baseline", "MNIST", 4, 60_000, tmp_path / "bands.csv") == (0.87, 0.89)


def test_a_single_run_gives_no_band(tmp_path):
    once = runs([0.9]).assign(variant="BCELoss + Adam")
    pd.concat([runs([0.88, 0.88]), once]).to_csv(tmp_path / "study.csv", index=False)
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert pd.read_csv(tmp_path / "bands.csv")["variant"].tolist() == ["baseline"]


def test_a_band_set_in_advance_stays(tmp_path):
    stated = "variant,data,epochs,images_per_epoch,low,high,origin\nbaseline,MNIST,4,60000,0.86,0.9,set in advance\n"
    (tmp_path / "bands.csv").write_text(stated)
    runs([0.881, 0.882]).to_csv(tmp_path / "study.csv", index=False)
    write_bands(tmp_path / "study.csv", tmp_path / "bands.csv")
    assert (tmp_path / "bands.csv").read_text() == stated


def test_committed_bands_are_those_of_the_committed_study(tmp_path):
    shutil.copy(RESULTS / "bands.csv", tmp_path / "bands.csv")
    write_bands(RESULTS / "study.csv", tmp_path / "bands.csv")
    assert (tmp_path / "bands.csv").read_bytes() == (RESULTS / "bands.csv").read_bytes()


def test_every_recorded_full_run_on_mnist_lies_in_its_band():
    study, bands = pd.read_csv(RESULTS / "study.csv"), pd.read_csv(RESULTS / "bands.csv")
    both = study[study["epoch"] == study["epochs"]].merge(bands, on=SETTINGS)
    assert len(both) > 0
    assert both["accuracy"].between(both["low"], both["high"]).all()
