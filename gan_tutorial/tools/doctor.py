"""Why does my kernel die? ``gan-tutorial doctor`` looks at all that the notebooks stand on (notebook 00).

A check yields lines of the report. Each runs in a child process, so that a crash or a hang is reported, not suffered.
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
from collections.abc import Iterable, Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

_Line = dict[str, str]
CHECKS = ("machine", "mixture", "packages", "kernels", "torch", "data")
_CONDA = Path(sys.prefix, "conda-meta").is_dir()
_PIP = f'"{sys.executable}" -m pip install "gan_tutorial[tools]"'  # also lifts what is too old to its bound
_INSTALL = f"Run: {'conda env update -f environment.yml' if _CONDA else _PIP}"
_FRESH = "Make a fresh environment, all of it from conda-forge or all with pip, never mixed (see notebook 00_setup)."
_OPENMP = re.compile(r"(libiomp5|libomp|libgomp|vcomp)(md)?[-.\d]")  # made by Intel, LLVM, GNU and Microsoft


def _line(good: bool, name: str, found: str, advice: str = "", otherwise: str = "WARN") -> _Line:
    return {"status": "OK" if good else otherwise, "name": name, "found": found, "advice": "" if good else advice}


def check_machine() -> Iterator[_Line]:
    """Python of 3.11 or newer, made for this processor, in an environment; room on the disk and in memory."""
    from gan_tutorial._sources import cache_folder

    found = f"{'.'.join(map(str, sys.version_info[:3]))} for {platform.machine()}"
    yield _line(sys.version_info >= (3, 11), "Python", found, "Make an environment with Python 3.11 or newer.", "FAIL")
    if platform.machine() == "x86_64" and "ARM64" in platform.version():  # what Rosetta plays, and what there is
        advice = f"Slow, without the GPU, and kernels die: install Python or Miniforge for arm64. {_FRESH}"
        yield _line(False, "architecture", "an Intel Python, translated by Rosetta on Apple silicon", advice)
    kind = "conda" if _CONDA else "virtual" if sys.prefix != sys.base_prefix else "no"
    advice = "Make an environment for the course, so that other projects cannot break it (see the README)."
    yield _line(kind != "no", "interpreter", f"{sys.executable} ({kind} environment)", advice)
    folder = next(path for path in (cache_folder(), *cache_folder().parents) if os.access(path, os.F_OK))
    free = shutil.disk_usage(folder).free / 1e9
    advice = "Make room (0.5 GB), or set GAN_TUTORIAL_CACHE to a folder that you may write to."
    good = free >= 0.5 and os.access(folder, os.W_OK)
    yield _line(good, "disk", f"{free:.1f} GB free for the cache folder {cache_folder()}", advice)
    import psutil

    available = psutil.virtual_memory().available / 1e9
    advice = "Close other programs, and run one notebook at a time: gan-tutorial run --jobs 1"
    yield _line(available >= 2, "memory", f"{available:.1f} GB available", advice)


def check_mixture(prefix: str = sys.prefix, packages: str = sysconfig.get_path("purelib")) -> Iterator[_Line]:
    """What computes comes all from conda or not at all, and no OpenMP runtimes on disk would fight, used or not."""
    names = ("torch", "numpy", "scikit-learn")
    found = {name: metadata.distributions(name=name, path=[packages]) for name in names}
    tools = {n: (package.read_text("INSTALLER") or "unknown").strip() for n in names for package in found[n]}
    advice = f"Each brings its own OpenMP runtime, and two in one process kill the kernel. {_FRESH}"
    good = "conda" not in tools.values() or len(set(tools.values())) == 1
    yield _line(good, "installed", ", ".join(f"{name} by {tool}" for name, tool in tools.items()), advice)
    brought = [file for depth in ("*", "*/*") for file in Path(packages).glob(f"{depth}/*omp*")]
    yield judge_openmp("OpenMP installed", [*Path(prefix, "lib").glob("*omp*"), *brought])


def check_packages(requirements: Iterable[str] = ()) -> Iterator[_Line]:
    """Each package within its bounds: without any named, those that gan_tutorial and its command need."""
    from packaging.requirements import Requirement

    within = []
    for need in map(Requirement, sorted(requirements or metadata.requires("gan_tutorial") or ())):
        if need.marker and not need.marker.evaluate({"extra": "tools"}):
            continue
        version = next((package.version for package in metadata.distributions(name=need.name)), None)
        if version and need.specifier.contains(version, prereleases=True):
            within.append(f"{need.name} {version}")
        else:
            found = f"{need.name} {version or 'missing'}, needed is {need.specifier}"
            yield _line(False, "package", found, _INSTALL, "FAIL")
    yield _line(True, "packages", ", ".join(within) or "none")


def check_kernels() -> Iterator[_Line]:
    """The kernel called python3, which the notebooks name, should be this environment's."""
    from jupyter_client.kernelspec import KernelSpecManager

    kernels, homes = KernelSpecManager().get_all_specs(), {}
    if find_spec("nb_conda_kernels"):
        kernels |= import_module("nb_conda_kernels").CondaKernelSpecManager().get_all_specs()
    for name, spec in ((name, kernel["spec"]) for name, kernel in kernels.items()):
        command = sys.executable if spec["argv"][0] in ("python", "python3") else spec["argv"][0]  # as Jupyter does
        conda = spec.get("metadata", {}).get("conda_env_path")  # nb_conda_kernels starts a runner of its own first
        home = Path(conda or Path(shutil.which(command) or command).parent).resolve()
        own = home in (Path(sys.prefix).resolve(), Path(sys.executable).parent.resolve())
        homes[name] = "this environment" if own else str(home)
    found = ", ".join(f"{name} of {home}" for name, home in homes.items()) or "none"
    advice = f'Notebooks ask for python3 and would lack these packages. Run: "{sys.executable}" -m ipykernel install'
    yield _line(homes.get("python3") == "this environment", "kernels", found, f"{advice} --sys-prefix")


def judge_openmp(name: str, libraries: Iterable[Path]) -> _Line:
    """Say whether the OpenMP runtimes among these files get along in one process."""
    # Intel's and LLVM's are of one stock and fight. Harmless are GNU's and Microsoft's, the LLVM copies that packages
    # from PyPI bring along on macOS, and what a single package chose for itself.
    runtimes = set()
    for path in (library.resolve() for library in libraries):  # conda links several names to one file
        _, package, rest = path.as_posix().rpartition("/site-packages/")
        if match := _OPENMP.match(path.name):
            runtimes.add((match[1], rest.split("/")[0] if package else rest))
    fighters = {(family, owner) for family, owner in runtimes if family in ("libiomp5", "libomp")}
    from_pypi = all(family == "libomp" and "/" not in owner for family, owner in fighters)
    good = from_pypi or len({owner for _, owner in fighters}) == 1
    found = ", ".join(f"{family} of {owner}" for family, owner in sorted(runtimes)) or "none"
    found += "; they get along" if good and len(runtimes) > 1 else ""
    advice = f"Together they kill or freeze the kernel, and KMP_DUPLICATE_LIB_OK only hides it. {_FRESH}"
    return _line(good, name, found, advice)


def check_torch() -> Iterator[_Line]:
    """PyTorch can be imported, multiplies small matrices on each device, and computes beside scikit-learn."""
    import torch

    from gan_tutorial.device import available_devices

    yield _line(True, "PyTorch", torch.__version__)
    advice = "Update its driver and PyTorch; until then: gan-tutorial run --device cpu"
    for device in available_devices():
        try:
            matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
            answer = str((matrix @ matrix).tolist())
        except RuntimeError as error:
            answer = str(error).partition("\n")[0]
        found = f"a small matrix product gave {answer}"
        yield _line(answer == "[[7.0, 10.0], [15.0, 22.0]]", f"device {device}", found, advice, "FAIL")
    from sklearn.metrics import pairwise_distances_argmin
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    torch.ones(1 << 20).relu().sum()  # large enough to be shared among threads
    pairwise_distances_argmin(torch.eye(600, 8), torch.eye(8))
    yield judge_openmp("OpenMP in use", (Path(library["filepath"]) for library in threadpool_info()))


def check_data() -> Iterator[_Line]:
    """All of MNIST at hand; nothing is downloaded here."""
    from gan_tutorial.data import FOLDER_VARIABLE, DataError, notice, resolve_source

    named = os.environ.get(FOLDER_VARIABLE)
    advice = "Until then the notebooks take a sample of 5,000 digits. While online: gan-tutorial data --fetch"
    try:
        source = resolve_source("sample" if named == "sample" else "folder" if named else "cache")
        yield _line(True, "data", notice(source, asked_for=source).removeprefix("Data: "))
    except (DataError, OSError) as error:
        cure = f"Let {FOLDER_VARIABLE} name a folder with MNIST that you may read, or unset it." if named else advice
        yield _line(False, "data", str(error), cure, "FAIL" if named else "WARN")


def examine(check: str, timeout: float = 120) -> list[_Line]:
    """Return the lines of a check that runs in a child process; if that ends before the check, the last is a FAIL."""
    code = f"""if True:
        import faulthandler, json
        from gan_tutorial.tools import doctor
        faulthandler.dump_traceback_later({timeout}, exit=True)
        for line in doctor.check_{check}():
            print("\\n" + json.dumps(line), flush=True)
        print("finished")"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", errors="replace")
    output, errors = child.stdout.splitlines(), child.stderr.strip().splitlines() or ["no message"]
    lines = [json.loads(text) for text in output if text.startswith('{"status"')]
    if child.returncode == 0 and output[-1:] == ["finished"]:
        return lines
    message = next((text for text in errors if text.startswith(("OMP: Error", "Timeout"))), errors[-1])
    end = f"exit code {child.returncode}" if child.returncode >= 0 else signal.Signals(-child.returncode).name
    advice = _INSTALL if "ModuleNotFoundError" in message else f"A notebook would stop in the same way. {_FRESH}"
    return [*lines, _line(False, check, f"{end}: {message[:300]}", advice, "FAIL")]


def main(as_json: bool = False) -> int:
    """Print the report, as lines or as one JSON object; return 1 if anything failed, else 0."""
    report = [line for check in CHECKS for line in examine(check)]
    status = max((line["status"] for line in report), key=["OK", "WARN", "FAIL"].index)
    if as_json:
        print(json.dumps({"status": status, "checks": report}, indent=2))
    else:
        for line in report:
            advice = f"\n       -> {line['advice']}" if line["advice"] else ""
            print(f"{'[' + line['status'] + ']':6} {line['name']}: {line['found']}{advice}")
    return int(status == "FAIL")
