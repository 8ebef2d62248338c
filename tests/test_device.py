"""Devices are chosen by name, with an error that names what this machine has."""

import pytest
import torch

from gan_tutorial.device import available_devices, best_device, choose_device, set_seed, synchronize


def test_the_cpu_is_always_there():
    assert available_devices()[0] == "cpu"
    assert choose_device("cpu") == torch.device("cpu")
    synchronize("cpu")


def test_auto_means_the_best_device():
    expected = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    assert choose_device("auto").type == best_device().type == expected


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x"])
def test_a_name_that_is_no_device_is_refused(name):
    with pytest.raises(ValueError, match=r"no device called .* Choose one of: auto, cpu"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda", "mps", "xpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    if name in available_devices():
        pytest.skip(f"this machine has {name}")
    with pytest.raises(ValueError, match=r"This machine has no device .* Choose one of: auto, cpu"):
        choose_device(name)


def test_the_same_seed_gives_the_same_numbers():
    set_seed(5)
    first = torch.rand(3)
    set_seed(5)
    assert torch.equal(first, torch.rand(3))
