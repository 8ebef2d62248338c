"""Training goes through the file in order, evaluation counts right answers, and bands are held."""

import pytest
import torch

from gan_tutorial.data import MnistDataset
from gan_tutorial.device import set_seed
from gan_tutorial.network import ANN
from gan_tutorial.training import batches, evaluate, images_per_epoch_of_profile, predict, train


def tiny_dataset(labels):
    """Blank images with the given labels."""
    digits = torch.tensor(labels, dtype=torch.uint8).numpy()
    pixels = torch.zeros(len(labels), 784, dtype=torch.uint8).numpy()
    return MnistDataset.from_arrays(digits, pixels, name="tiny")


def network_that_answers(digit):
    """A network whose largest score is always at ``digit``."""
    network = ANN()
    with torch.no_grad():
        network.model[2].bias[:] = 0
        network.model[2].weight[:] = 0
        network.model[2].bias[digit] = 5
    return network


def test_images_come_in_file_order_and_start_again_at_the_top():
    assert list(batches(3, images=7, batch_size=1)) == [0, 1, 2, 0, 1, 2, 0]


def test_the_next_epoch_goes_on_where_the_last_one_ended():
    assert list(batches(3, images=2, batch_size=1, start=2)) == [2, 0]


def test_batches_end_where_the_file_ends():
    assert list(batches(5, images=8, batch_size=3)) == [slice(0, 3), slice(3, 5), slice(0, 3)]


def test_batches_cover_each_image_once_in_an_epoch():
    shown = [i for chosen in batches(10, images=10, batch_size=4) for i in range(10)[chosen]]
    assert shown == list(range(10))


def test_accuracy_is_the_share_of_right_answers():
    dataset = tiny_dataset([7, 7, 7, 2])
    assert evaluate(network_that_answers(7), dataset) == 0.75
    assert evaluate(network_that_answers(2), dataset) == 0.25
    assert predict(network_that_answers(2), dataset).tolist() == [2, 2, 2, 2]


def test_evaluation_leaves_the_network_as_it_was():
    network = network_that_answers(1)
    before = [parameter.clone() for parameter in network.parameters()]
    evaluate(network, tiny_dataset([1, 2]))
    assert network.training
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_history_has_the_mean_loss_and_accuracy_of_every_epoch(sample):
    train_data, test_data = sample
    set_seed(0)
    network = ANN()
    history = train(network, train_data, epochs=3, images_per_epoch=400, test_data=test_data)
    assert [e.epoch for e in history] == [1, 2, 3]
    assert history[1].loss == pytest.approx(sum(network.progress[40:80]) / 40)
    assert history[2].accuracy == evaluate(network, test_data)


def test_a_batch_epoch_shows_as_many_images_in_fewer_steps(sample):
    network = ANN()
    train(network, sample[0], epochs=2, images_per_epoch=1_000, batch_size=64)
    assert network.counter == 2 * -(-1_000 // 64)


@pytest.mark.parametrize("count", ["epochs", "images_per_epoch", "batch_size"])
def test_a_count_below_one_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} is 0; it must be 1 or more"):
        train(ANN(), tiny_dataset([1]), **{count: 0})


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="nothing to train on"):
        train(ANN(), tiny_dataset([]))


def test_network_and_data_on_different_devices_are_refused():
    with pytest.raises(ValueError, match="network is on meta, the data set on cpu"):
        train(ANN().to("meta"), tiny_dataset([1]))


def test_the_progress_line_ends_with_all_images_and_the_mean_of_the_last_hundred_losses(sample, capsys):
    network = ANN()
    train(network, sample[0], epochs=2, images_per_epoch=2_000)
    last = capsys.readouterr().out.rstrip("\n").split("\r")[-1].rstrip()
    mean = sum(network.progress[-100:]) / 100
    assert last == f"{'█' * 20} 4,000 of 4,000 images, loss {mean:.4f} (mean of the last 100 kept)"


@pytest.mark.parametrize(("profile", "images"), [("full", 60_000), ("quick", 1_500)])
def test_the_profile_sets_the_images_of_an_epoch(monkeypatch, profile, images):
    monkeypatch.setenv("GAN_TUTORIAL_PROFILE", profile)
    assert images_per_epoch_of_profile() == images


def test_an_unknown_profile_is_refused(monkeypatch):
    monkeypatch.setenv("GAN_TUTORIAL_PROFILE", "fast")
    with pytest.raises(ValueError, match="choose one of: full, quick"):
        images_per_epoch_of_profile()


def test_quiet_training_prints_nothing_and_learns_the_same(capsys):
    dataset, networks = tiny_dataset([3, 1]), []
    for quiet in (False, True):
        set_seed(0)
        networks.append(ANN())
        train(networks[-1], dataset, epochs=1, images_per_epoch=10_000, quiet=quiet, fast=True)
        assert bool(capsys.readouterr().out) == (not quiet)
    assert networks[0].progress == networks[1].progress
