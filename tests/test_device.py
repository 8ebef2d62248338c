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


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda", "mps", "xpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    if name in available_devices():
        pytest.skip(f"this machine has {name}")
    with pytest.raises(ValueError, match=rf"no device called '{name}'\. Choose one of: auto, cpu"):
        choose_device(name)


def test_an_accelerator_is_chosen_by_its_kind_or_number(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    with pytest.raises(ValueError, match=r"no device called 'cuda:2'\. Choose one of: auto, cpu, cuda"):
        choose_device("cuda:2")


def test_the_same_seed_gives_the_same_numbers():
    set_seed(5)
    first = torch.rand(3)
    set_seed(5)
    assert torch.equal(first, torch.rand(3))
