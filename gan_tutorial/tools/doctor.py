"""Why does my kernel die? ``gan-tutorial doctor`` looks at all that the notebooks stand on (notebook 00).

Each check yields the lines it has to say. Its parameters default to what this computer answers. Whatever needs PyTorch
runs in a child process, so that a crash or a hang there is reported rather than suffered.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

Status = Literal["OK", "WARN", "FAIL"]
FRESH = (
    "Make a fresh environment, all of it from conda-forge or all of it with pip, never mixed (see notebook 00_setup)."
)
OPENMP = re.compile(r"(libiomp5|libomp|libgomp|vcomp)(md)?[-.\d]")  # made by Intel, LLVM, GNU and Microsoft
ENOUGH_DISK, ENOUGH_MEMORY = 0.5e9, 2e9  # bytes: MNIST in all its forms; one notebook at work


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, what was found and, unless all is well, what to do."""

    status: Status
    name: str
    found: str
    advice: str = ""


def verdict(good: bool, name: str, found: str, advice: str, otherwise: Status = "WARN") -> Check:
    """Return an OK line without the advice if ``good``, else one of status ``otherwise`` with it."""
    return Check("OK", name, found) if good else Check(otherwise, name, found, advice)


def under_rosetta() -> bool:
    """Return whether macOS translates this process from Intel to Apple silicon."""
    command = ["sysctl", "-in", "sysctl.proc_translated"]
    return sys.platform == "darwin" and subprocess.run(command, capture_output=True).stdout.strip() == b"1"


def check_python(version: tuple[int, ...] = sys.version_info[:3], translated: bool | None = None) -> Iterator[Check]:
    """Python must be 3.11 or newer, and should be no Intel Python on Apple silicon."""
    found = f"{'.'.join(map(str, version))} for {platform.machine()}"
    yield verdict(version >= (3, 11), "Python", found, "Make an environment with Python 3.11 or newer.", "FAIL")
    if under_rosetta() if translated is None else translated:
        advice = "Slow, without the GPU, and kernels die: install Python or Miniforge for arm64. " + FRESH
        yield Check("WARN", "architecture", "an Intel Python, translated by Rosetta on Apple silicon", advice)


def check_interpreter(prefix: str = sys.prefix, base_prefix: str = sys.base_prefix) -> Iterator[Check]:
    """The interpreter should belong to a virtual or conda environment."""
    kind = "conda environment" if is_conda(prefix) else "virtual environment" if prefix != base_prefix else ""
    advice = "Make an environment for the course, so that other projects cannot break it (see the README)."
    yield verdict(bool(kind), "interpreter", f"{sys.executable} ({kind or 'in no environment'})", advice)


def is_conda(prefix: str = sys.prefix) -> bool:
    """Return whether conda (or mamba, or pixi) made the environment at ``prefix``."""
    return (Path(prefix) / "conda-meta").is_dir()


def check_packages(requirements: Iterable[str] = (), prefix: str = sys.prefix) -> Iterator[Check]:
    """Every required package must be within its bounds: without any named, those of the installed gan_tutorial."""
    from packaging.requirements import Requirement

    within = []
    for need in map(Requirement, requirements or metadata.requires("gan_tutorial") or ()):
        version = next((found.version for found in metadata.distributions(name=need.name)), None)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        if version and need.specifier.contains(version, prereleases=True):
            within.append(f"{need.name} {version}")
            continue
        pip = f'"{sys.executable}" -m pip install "{need.name}{need.specifier}"'
        cure = f"Run: {'conda env update -f environment.yml' if is_conda(prefix) else pip}"
        yield Check("FAIL", "package", f"{need.name} {version or 'missing'}, needed is {need.specifier}", cure)
    yield Check("OK", "packages", ", ".join(within) or "none")


def check_mixture(prefix: str = sys.prefix) -> Iterator[Check]:
    """In a conda environment, PyTorch and what it computes with should all be conda's, or all pip's."""
    by: dict[str, list[str]] = {"conda": [], "pip": []}
    for name, conda_name in {"torch": "pytorch", "numpy": "numpy", "scikit-learn": "scikit-learn"}.items():
        here = f"site-packages/{name.replace('-', '_')}-{metadata.version(name)}"
        records = (Path(prefix) / "conda-meta").glob(f"{conda_name}-[0-9]*.json")
        by["conda" if any(here in record.read_text("utf-8") for record in records) else "pip"].append(name)
    found = "; ".join(f"{', '.join(names)} by {tool}" for tool, names in by.items() if names)
    advice = "Each brings its own OpenMP runtime, and two in one process kill the kernel. " + FRESH
    yield verdict(not (by["conda"] and by["pip"]), "installed", found, advice)


def kernel_specs() -> dict[str, dict[str, Any]]:
    """Return the kernels that Jupyter offers, name -> kernel.json, with those that nb_conda_kernels adds."""
    from jupyter_client.kernelspec import KernelSpecManager

    managers: list[Any] = [KernelSpecManager()]
    if find_spec("nb_conda_kernels"):
        managers.append(import_module("nb_conda_kernels").CondaKernelSpecManager())
    return {name: kernel["spec"] for manager in managers for name, kernel in manager.get_all_specs().items()}


def kernel_home(spec: Mapping[str, Any]) -> Path:
    """Return the environment folder whose interpreter a kernel starts."""
    if conda := spec.get("metadata", {}).get("conda_env_path"):  # nb_conda_kernels starts a runner of its own first
        return Path(conda).resolve()
    own = {"python", "python3", f"python3.{sys.version_info[1]}"}  # Jupyter takes these for its own interpreter
    command = sys.executable if spec["argv"][0] in own else spec["argv"][0]
    folder = Path(shutil.which(command) or command).absolute().parent  # a venv's link to its base is not followed
    return (folder.parent if folder.name in ("bin", "Scripts") else folder).resolve()


def check_kernels(specs: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Check]:
    """One kernel should be this environment's, and it should be the one called python3: the notebooks name that."""
    specs, here = kernel_specs() if specs is None else specs, kernel_home({"argv": ["python"]})
    homes = {name: kernel_home(spec) for name, spec in specs.items() if spec["language"].lower() == "python"}
    own = [name for name, home in homes.items() if home == here]
    others = [f"{name} of {home}" for name, home in homes.items() if home != here]
    advice = f'Notebooks would lack these packages. Run: "{sys.executable}" -m ipykernel install --sys-prefix'
    if own:
        advice = f"The notebooks ask for python3: choose {own[0]} instead, or run: jupyter kernelspec remove python3"
    good = bool(own) and homes.get("python3", here) == here
    yield verdict(good, "kernels", "; ".join([f"{', '.join(own) or 'none'} of this environment", *others]), advice)


def judge_openmp(name: str, libraries: Iterable[Path]) -> Check:
    """Say whether the OpenMP runtimes among these files get along in one process.

    Intel's and LLVM's are of one stock and fight. Harmless are GNU's and Microsoft's, the LLVM copies that packages
    from PyPI bring along on macOS, and what a single package chose for itself.
    """
    runtimes = set()
    for path in (library.resolve() for library in libraries):  # conda links several names to one file
        _, bundled, rest = path.as_posix().rpartition("/site-packages/")
        if match := OPENMP.match(path.name):
            runtimes.add((match[1], rest.split("/")[0] if bundled else str(path), bool(bundled)))
    fighters = {runtime for runtime in runtimes if runtime[0] in ("libiomp5", "libomp")}
    good = len({owner for _, owner, _ in fighters}) < 2 or all(f == "libomp" and inside for f, _, inside in fighters)
    found = ", ".join(f"{family} of {owner}" for family, owner, _ in sorted(runtimes)) or "none"
    found += "; they get along" if good and len(runtimes) > 1 else ""
    advice = "Together they kill or freeze the kernel, and KMP_DUPLICATE_LIB_OK only hides it. " + FRESH
    return verdict(good, name, found, advice)


def check_openmp_files(prefix: str = sys.prefix, packages: str = sysconfig.get_path("purelib")) -> Iterator[Check]:
    """The environment should not hold OpenMP runtimes that fight, in use or not."""
    patterns = ("*.libs", "*/lib", "*/.dylibs", "*/.libs")  # where wheels keep what they bring along
    folders = [Path(prefix) / "lib", *(folder for pattern in patterns for folder in Path(packages).glob(pattern))]
    yield judge_openmp("OpenMP installed", (file for folder in folders for file in folder.glob("*omp*")))


def check_memory(available: float | None = None) -> Iterator[Check]:
    """A notebook needs about 2 GB of memory; ``available`` is in bytes."""
    import psutil

    available = psutil.virtual_memory().available if available is None else available
    advice = "Close other programs, and run one notebook at a time: gan-tutorial run --jobs 1"
    yield verdict(available >= ENOUGH_MEMORY, "memory", f"{available / 1e9:.1f} GB available", advice)


def check_torch() -> Iterator[Check]:
    """PyTorch must be importable."""
    start = time.perf_counter()
    import torch

    yield Check("OK", "PyTorch", f"{torch.__version__}, imported in {time.perf_counter() - start:.1f} s")


def square(device: str) -> list[list[float]]:
    """Return the matrix [[1, 2], [3, 4]] times itself, computed on ``device``."""
    import torch

    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    return (matrix @ matrix).tolist()


def check_devices(compute: Callable[[str], list[list[float]]] = square) -> Iterator[Check]:
    """Every device must multiply two small matrices as one does by hand."""
    from gan_tutorial.device import available_devices

    advice = "Update its driver and PyTorch; until then: gan-tutorial run --device cpu"
    for device in available_devices():
        try:
            answer = str(compute(device))
        except RuntimeError as error:
            answer = str(error).partition("\n")[0]
        good = answer == "[[7.0, 10.0], [15.0, 22.0]]"
        yield verdict(good, f"device {device}", f"a small matrix product gave {answer}", advice, "FAIL")


def check_data() -> Iterator[Check]:
    """All of MNIST should be at hand; nothing is downloaded here."""
    from gan_tutorial.data import DataError, resolve_source

    named = os.environ.get("GAN_TUTORIAL_DATA")
    try:
        resolve_source("folder" if named else "cache")
        yield Check("OK", "data", f"all of MNIST, in {'the folder GAN_TUTORIAL_DATA names' if named else 'the cache'}")
    except DataError as error:
        if named:
            yield Check("FAIL", "data", str(error), "Correct GAN_TUTORIAL_DATA, or unset it.")
        else:
            found = "no verified copy of MNIST yet; offline, the notebooks take a sample of 5,000 digits"
            yield Check("WARN", "data", found, "For all of it, while online: gan-tutorial data --fetch")


def check_disk(folder: Path | None = None, free: float | None = None) -> Iterator[Check]:
    """The cache folder must be writable and needs room; ``free`` is in bytes."""
    from gan_tutorial.data import cache_folder

    folder = folder or cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free if free is None else free
    good = free >= ENOUGH_DISK and os.access(existing, os.W_OK)
    advice = "Make room (0.5 GB), or set GAN_TUTORIAL_CACHE to a folder that you may write to."
    yield verdict(good, "disk", f"{free / 1e9:.1f} GB free for the cache folder {folder}", advice)


def check_openmp() -> Iterator[Check]:
    """PyTorch and scikit-learn must compute with several threads in one process, on runtimes that get along."""
    import numpy as np
    import torch
    from sklearn.metrics import pairwise_distances_argmin
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    torch.ones(1 << 20).relu().sum()  # large enough to be shared among threads
    pairwise_distances_argmin(np.eye(600, 8), np.eye(8))
    yield judge_openmp("OpenMP in use", (Path(library["filepath"]) for library in threadpool_info()))


STEPS = {
    "PyTorch": check_torch,
    "devices": check_devices,
    "data": check_data,
    "disk": check_disk,
    "OpenMP in use": check_openmp,
}


def run_steps() -> None:
    """Print what each step yields as one line of JSON (this is the work of the child process)."""
    for step in STEPS.values():
        print(json.dumps([asdict(check) for check in step()]), flush=True)


def check_in_child(timeout: float = 120, environment: Mapping[str, str] | None = None) -> Iterator[Check]:
    """Run the steps in a child process; when it dies, or takes longer than ``timeout`` seconds, say in which step."""
    command = [sys.executable, "-c", "from gan_tutorial.tools.doctor import run_steps; run_steps()"]
    try:
        child = subprocess.run(command, capture_output=True, timeout=timeout, env=environment)
        output, death = child.stdout, cause_of_death(child.returncode, child.stderr.decode(errors="replace"))
    except subprocess.TimeoutExpired as late:
        output, death = late.stdout or b"", f"no answer within {timeout:g} s"
    results = [json.loads(line) for line in output.splitlines() if line.startswith(b'[{"status"')]
    yield from (Check(**fields) for result in results for fields in result)
    if death:
        step, *skipped = [*STEPS, "leaving Python"][len(results) :]
        yield Check("FAIL", step, death, "A notebook would stop in the same way. " + FRESH)
        if skipped[:-1]:
            yield Check("WARN", "not checked", ", ".join(skipped[:-1]), "First mend what failed.")


def cause_of_death(code: int, errors: str) -> str:
    """Return in words why a process ended with this exit code, "" when it ended well."""
    if code == 0:
        return ""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    detail = next((line for line in lines if line.startswith("OMP: Error")), lines[-1] if lines else "no message")
    return f"{({-s: s.name for s in signal.Signals}).get(code, f'exit code {code}')}: {detail[:300]}"


CHECKS = (
    check_python,
    check_interpreter,
    check_packages,
    check_mixture,
    check_kernels,
    check_memory,
    check_openmp_files,
    check_in_child,
)


def attempt(check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Run a check; if that itself fails, say so and go on, for a broken environment is what doctor is for."""
    try:
        yield from check()
    except Exception as error:
        yield Check("FAIL", check.__name__.removeprefix("check_"), f"{type(error).__name__}: {error}", FRESH)


def main(as_json: bool = False, checks: Iterable[Callable[[], Iterator[Check]]] = CHECKS) -> int:
    """Print the report, as lines or as one JSON object; return 1 if anything failed, else 0."""
    report = []
    for line in (line for check in checks for line in attempt(check)):
        report.append(line)
        if not as_json:
            advice = f"\n       -> {line.advice}" if line.advice else ""
            print(f"{f'[{line.status}]':6} {line.name}: {line.found}{advice}", flush=True)
    status = max((line.status for line in report), key=["OK", "WARN", "FAIL"].index)
    if as_json:
        print(json.dumps({"status": status, "checks": [asdict(line) for line in report]}, indent=2))
    return int(status == "FAIL")
