"""What the GANs came to is shown, held to the recorded seeds, recorded whole, and read again."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from torch import nn

from gan_tutorial import judging, verdicts
from gan_tutorial.data import MnistDataset
from gan_tutorial.judging import Verdict
from gan_tutorial.verdicts import GanRun, expected_frechet, make_images, read_verdicts, report_gan

NOISE = 3
HINTS = ("usual causes", "Restart the kernel", "set_seed", "unlucky seed", "this is your finding")


def make_generator(inputs=NOISE):
    """A small generator whose result depends on its mode: batch normalization and dropout."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(inputs, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 784), nn.Sigmoid())


def make_run(frechet=12.0, seed=0, **other):
    """A run with this Frechet distance; its networks are the same each time."""
    numbers = {"score": 8.0, "digits": 9, "kl": 0.1234567, "precision": 0.5, "recall": 0.25, "density": 0.75}
    verdict = Verdict(frechet, **numbers, coverage=0.5, nearness=0.9, copies=0.0)
    data = MnistDataset.from_arrays(np.array([1], np.uint8), np.zeros((1, 784), np.uint8), "tiny")
    settings = {"gan": "first try", "train_data": data, "images_shown": 600, "seconds": 1.26} | other
    settings = {"judged": verdicts.IMAGES} | settings
    return GanRun(
        generator=nn.Linear(NOISE, 784), discriminator=nn.Linear(784, 1), verdict=verdict, seed=seed, **settings
    )


def recorded(frechet, seed=0, **settings):
    """A row of a run with this distance and these settings."""
    return make_run(frechet, seed).row() | settings


@pytest.fixture
def file(tmp_path):
    """Three recorded seeds of "first try", and rows with other settings that must not count."""
    rows = [recorded(frechet, seed) for seed, frechet in enumerate([10.0, 20.0, 15.0])]
    rows += [recorded(1_000.0, **other) for other in ({"gan": "repaired"}, {"data": "MNIST"}, {"images_shown": 6_000})]
    pd.DataFrame(rows).to_csv(tmp_path / "gans.csv", index=False)
    return tmp_path / "gans.csv"


@pytest.fixture
def shell():
    """IPython captures what is displayed only while a shell runs."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


# ---- the images that are judged --------------------------------------------------------------------------------------


def plain_images(generator, labels=None, count=2_500):
    """The same images in plain PyTorch, all in one piece."""
    seeds = torch.randn(count, NOISE, generator=torch.Generator().manual_seed(2_147_483_647))
    if labels is not None:
        seeds = torch.cat([seeds, torch.eye(10)[labels]], dim=1)
    with torch.no_grad():
        return generator.eval()(seeds)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_images_are_those_of_plain_pytorch_in_evaluation_mode(conditional):
    generator = make_generator(NOISE + 10 * conditional)
    labels = torch.arange(2_500) % 10 if conditional else None
    images = make_images(generator, NOISE, labels, count=2_500)
    assert generator.training
    assert not images.requires_grad
    torch.testing.assert_close(images, plain_images(generator, labels))


def test_every_call_uses_the_same_noise_whatever_was_drawn_before():
    generator = make_generator()
    first = make_images(generator, NOISE, count=20)
    torch.rand(7)
    assert torch.equal(first, make_images(generator, NOISE, count=20))
    assert len(make_images(generator, NOISE)) == 10_000


@pytest.mark.parametrize("training", [False, True])
def test_the_generator_keeps_its_mode_and_its_running_means(training):
    generator = make_generator().train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    make_images(generator, NOISE, count=20)
    with pytest.raises(ValueError, match=r"fails on seeds of shape \(20, 4\)"):
        make_images(generator, NOISE + 1, count=20)
    assert all(layer.training == training for layer in generator.modules())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_pictures_of_a_convolutional_generator_become_rows():
    generator = nn.Sequential(nn.Linear(NOISE, 784), nn.Unflatten(1, (1, 28, 28)))
    torch.testing.assert_close(make_images(generator, NOISE, count=5), plain_images(generator, count=5).reshape(5, 784))


def test_labels_of_another_number_are_named():
    with pytest.raises(ValueError, match="3 labels for 20 images"):
        make_images(make_generator(NOISE + 10), NOISE, torch.tensor([1, 2, 3]), count=20)


# ---- what is recorded ------------------------------------------------------------------------------------------------


def test_a_row_tells_what_was_trained_and_what_came_of_it():
    networks = {"generator": 3 * 784 + 784, "discriminator": 784 + 1}
    row = make_run(frechet=12.3456789, seed=7, label_accuracy=0.5).row()
    expected = {"gan": "first try", "data": "tiny", "images_shown": 600, "seed": 7, "seconds": 1.3} | networks
    expected |= {"frechet": 12.34568, "score": 8.0, "digits": 9, "kl": 0.12346, "label_accuracy": 0.5}
    expected |= {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__}
    assert {name: row[name] for name in expected} == expected
    conditions = {"data_sha256", "machine", "python"}
    verdict = {"precision", "recall", "density", "coverage", "nearness", "copies"}
    assert set(row) == {*expected, *conditions, *verdict}


def test_frozen_parameters_and_running_means_are_not_counted():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))  # 15 weights and biases, then 3 + 3
    assert verdicts.parameters(network) == 21
    network[0].bias.requires_grad_(False)
    assert verdicts.parameters(network) == 18


def test_a_run_is_recorded_once_and_again_in_its_own_place(tmp_path):
    file = tmp_path / "results" / "gans.csv"
    for seed, frechet in ((1, 11.0), (0, 10.0), (1, 12.0)):
        report_gan(make_run(frechet, seed), record=True, file=file)
    rows = pd.read_csv(file)
    assert rows[["seed", "frechet"]].to_numpy().tolist() == [[0, 10], [1, 12]]
    assert list(rows) == list(make_run().row())


def test_without_record_nothing_is_written(file):
    before = file.read_bytes()
    report_gan(make_run(), file=file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["gans.csv"]


def test_an_installed_package_is_not_recorded_into(monkeypatch):
    monkeypatch.setattr(judging, "__file__", "/usr/lib/python3/site-packages/gan_tutorial/judging.py")
    monkeypatch.setattr(judging, "JUDGE_FILE", verdicts.VERDICTS_FILE.with_name("judge.safetensors"))
    before = verdicts.VERDICTS_FILE.read_bytes()
    with pytest.raises(ValueError, match=r"gans\.csv belongs to the installed package and is read only: work in a"):
        report_gan(make_run(), record=True)
    assert verdicts.VERDICTS_FILE.read_bytes() == before


def test_a_verdict_of_fewer_images_is_neither_recorded_nor_held_to_a_limit(file, shell):
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"first try: 2,000 images were judged. Only verdicts of 10,000"):
        report_gan(make_run(judged=2_000), record=True, file=file)
    assert file.read_bytes() == before
    with capture_output() as captured:
        report_gan(make_run(5_000.0, judged=2_000), file=file)
    assert captured.outputs[0].metadata["gan_tutorial"]["limit"] is None


def test_a_killed_recording_leaves_whole_rows_and_can_go_on(tmp_path):
    file = tmp_path / "gans.csv"
    command = (
        "import sys; from pathlib import Path; from test_verdicts import make_run, report_gan\n"
        "for seed in range(100_000): report_gan(make_run(10.0, seed), record=True, file=Path(sys.argv[1]))"
    )
    folder = Path(__file__).parent
    writer = subprocess.Popen([sys.executable, "-c", command, str(file)], cwd=folder, stdout=subprocess.DEVNULL)
    while writer.poll() is None and not file.exists():
        time.sleep(0.02)
    time.sleep(0.3)
    writer.kill()
    writer.wait()
    rows = pd.read_csv(file)
    assert rows["seed"].tolist() == list(range(len(rows)))
    assert rows.drop(columns="label_accuracy").notna().all(axis=None)
    report_gan(make_run(11.0, seed=len(rows)), record=True, file=file)
    assert len(pd.read_csv(file)) == len(rows) + 1


# ---- what is expected ------------------------------------------------------------------------------------------------


def test_the_limit_is_the_farthest_recorded_seed_taken_twice(file):
    assert expected_frechet("first try", "tiny", 600, file) == pytest.approx(40)  # twice 20


def test_fewer_than_three_seeds_give_no_limit(file):
    pd.read_csv(file).drop(index=2).to_csv(file, index=False)
    assert expected_frechet("first try", "tiny", 600, file) is None
    assert expected_frechet("first try", "tiny", 601, file) is None
    with pytest.raises(ValueError, match=r"none\.csv: No such file"):  # a missing file is no missing limit
        expected_frechet("first try", "tiny", 600, file.with_name("none.csv"))


@pytest.mark.parametrize("frechet", [0.0, 5.0, 25.99])
def test_a_usual_distance_is_shown_with_its_mark(file, frechet, shell):
    with capture_output() as captured:
        report_gan(make_run(frechet), file=file)
    (output,) = captured.outputs
    expected = f"first try: Fréchet distance {frechet:.1f}, score 8.00, 9 digits (expected: at most 40)"
    assert output.data["text/plain"] == expected
    assert output.metadata["gan_tutorial"] == {"gan": "first try", "frechet": frechet, "limit": pytest.approx(40)}
    json.dumps(output.metadata)  # a notebook has to be able to hold it
    assert captured.stdout == ""


def test_settings_without_a_limit_are_shown_as_such(file, shell):
    with capture_output() as captured:
        report_gan(make_run(5_000.0, gan="by digit", label_accuracy=0.9876), file=file)
    (output,) = captured.outputs
    assert output.data["text/plain"].endswith(
        "9 digits, 98.8% as asked (fewer than 3 seeds are recorded for these settings)"
    )
    assert output.metadata["gan_tutorial"]["limit"] is None


@pytest.mark.parametrize(("frechet", "record"), [(40.1, False), (40.1, True), (float("nan"), False)])
def test_an_unusual_distance_fails_with_friendly_hints(file, capsys, frechet, record):
    with pytest.raises(AssertionError, match=r"first try: .* but expected: at most 40. See the hints above."):
        report_gan(make_run(frechet, seed=8), record=record, file=file)
    output = capsys.readouterr().out
    assert f"The Fréchet distance is {frechet:.1f}" in output
    assert "at most 40.0 was expected" in output
    assert all(hint in output for hint in HINTS)
    assert (8 in set(pd.read_csv(file)["seed"])) == record


def test_a_distance_that_is_no_number_is_not_recorded(file):
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"gans\.csv: line .*, column frechet: '', expected a number"):
        report_gan(make_run(float("nan"), seed=8), record=True, file=file)
    assert file.read_bytes() == before


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_the_verdicts_of_one_data_set_are_read(file):
    rows = read_verdicts(file, "tiny")
    assert len(rows) == 5
    assert rows.index.tolist() == [0, 1, 2, 3, 4]
    assert read_verdicts(file)["frechet"].tolist() == [1_000.0]


def test_a_data_set_that_no_gan_was_trained_on_is_named(file):
    with pytest.raises(ValueError, match=r"No GAN trained on 'MNIST sample' is recorded in gans.csv"):
        read_verdicts(file, "MNIST sample")
    with pytest.raises(ValueError, match=r"none\.csv: No such file"):
        read_verdicts(file.with_name("none.csv"))


FOREIGN = {
    "another table": (b"variant,data,seed\nbaseline,tiny,0\n", "line 1: expected the header gan,data,images_shown"),
    "an empty file": (b"", "line 1: expected the header"),
    "no text at all": (b"\xff\xfe\x00\x81", "can't decode"),
}


def damaged(content, kind):
    """The bytes of a table of GANs with one fault."""
    lines = content.splitlines(keepends=True)
    return b"".join(
        {
            "a merge conflict": [lines[0], b"<<<<<<< HEAD\n", *lines[1:]],
            "a doubled line": [*lines, lines[-1]],
            "a cut line": [*lines[:-1], lines[-1][:40]],
            "a letter for a zero": [*lines[:-1], lines[-1].replace(b",1000.0,", b",1OOO.0,")],
        }[kind]
    )


DAMAGES = {
    "a merge conflict": "line 2: 1 values, expected 24",
    "a doubled line": "line 8, gan, data, images_shown, seed as in an earlier line",
    "a cut line": "line 7: .* values, expected 24",
    "a letter for a zero": "line 7, column frechet: '1OOO.0'",
}


@pytest.mark.parametrize("kind", [*FOREIGN, *DAMAGES])
def test_a_damaged_or_foreign_file_is_named_and_left_alone(file, kind):
    content, message = FOREIGN.get(kind) or (damaged(file.read_bytes(), kind), DAMAGES[kind])
    file.write_bytes(content)
    uses = (
        lambda: read_verdicts(file),
        lambda: expected_frechet("first try", "tiny", 600, file),
        lambda: report_gan(make_run(), record=True, file=file),
    )
    for use in uses:
        with pytest.raises(ValueError, match=rf"gans\.csv: .*{message}.*Take the committed file again"):
            use()
    assert file.read_bytes() == content


def test_the_committed_table_is_read_and_written_again_to_the_same_bytes():
    rows = verdicts.read_rows(verdicts.VERDICTS_FILE)
    assert rows.to_csv(index=False, lineterminator="\n").encode() == verdicts.VERDICTS_FILE.read_bytes()
