"""What a training stands on: a device, a seed, counts that make sense (notebook 04)."""

import torch


def available_devices() -> list[str]:
    """Return the device types this machine can compute on, the CPU first, e.g. ``["cpu", "cuda"]``."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu"] if accelerator is None else ["cpu", accelerator.type]


def best_device() -> torch.device:
    """Return the accelerator (cuda, mps, xpu) if this machine has one, else the CPU."""
    return torch.device(available_devices()[-1])


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``, or for ``"auto"`` the `best_device`; a ValueError says which there are."""
    choices = ["auto", *available_devices()]
    numbered = [f"{choices[-1]}:{index}" for index in range(torch.accelerator.device_count())]
    if name not in choices + numbered:
        raise ValueError(f"There is no device called {name!r}. Choose one of: {', '.join(choices)}.")
    return best_device() if name == "auto" else torch.device(name)


def set_seed(seed: int) -> None:
    """Start PyTorch's random numbers, on every device, from ``seed``: call it just before building a network."""
    torch.manual_seed(seed)


def check_counts(**counts: int) -> None:
    """Raise a ValueError that names the first count below 1."""
    if low := [f"{name} is {value}" for name, value in counts.items() if value < 1]:
        raise ValueError(f"{low[0]}; it must be 1 or more.")


def synchronize(device: torch.device | str) -> None:
    """Wait until ``device`` has finished its work; without this a stopwatch only times the queueing (notebook 04)."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
