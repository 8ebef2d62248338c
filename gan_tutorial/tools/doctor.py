"""Why does my kernel die? ``gan-tutorial doctor`` looks at all that the notebooks stand on (notebook 00).

A check yields lines of the report. Each runs in a child process, so that a crash or a hang is reported, not suffered.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata, util
from pathlib import Path

CHECKS = ("machine", "packages", "kernels", "openmp", "torch", "data")
_CONDA = Path(sys.prefix, "conda-meta").is_dir()
_INSTALL = "Run: conda env update -f environment.yml" if _CONDA else 'Run: python -m pip install "gan_tutorial[tools]"'
_FRESH = "Make a fresh environment, all of it from conda-forge or all with pip, never mixed (see notebook 00_setup)."
_FIGHTERS = re.compile(r"lib(iomp5|omp)(md)?[-.\d](.*\.)?(so|dylib|dll)\b")  # OpenMP runtimes of Intel and LLVM


def _line(good: bool, name: str, found: str, advice: str = "", otherwise: str = "WARN") -> dict:
    return {"status": "OK" if good else otherwise, "name": name, "found": found, "advice": "" if good else advice}


def check_machine() -> Iterator[dict]:
    """Python of 3.11 or newer, made for this processor, in an environment; room on the disk and in memory."""
    import psutil

    from gan_tutorial._sources import cache_folder

    python = f"{platform.python_version()} for {platform.machine()}"
    yield _line(sys.version_info >= (3, 11), "Python", python, f"It should be 3.11 or newer. {_FRESH}", "FAIL")
    if platform.machine() == "x86_64" and "ARM64" in platform.version():  # what Rosetta plays, and what there is
        yield _line(False, "architecture", "an Intel Python on Apple silicon", f"Install one for arm64. {_FRESH}")
    kind = "conda" if _CONDA else "virtual" if sys.prefix != sys.base_prefix else "no"
    yield _line(kind != "no", "interpreter", f"{sys.executable} ({kind} environment)", _FRESH)
    folder = next(path for path in (cache_folder(), *cache_folder().parents) if os.access(path, os.F_OK))
    free, memory = psutil.disk_usage(str(folder)).free / 1e9, psutil.virtual_memory().available / 1e9
    good = free >= 0.5 and os.access(folder, os.W_OK)
    yield _line(good, "disk", f"{free:.1f} GB free for {cache_folder()}", "Make room, or set GAN_TUTORIAL_CACHE.")
    yield _line(memory >= 2, "memory", f"{memory:.1f} GB available", "Close programs, or: gan-tutorial run --jobs 1")


def check_packages(requirements: Iterable[str] = ()) -> Iterator[dict]:
    """Each package within its bounds, by default what the course needs; what computes all from conda, or not at all."""
    from packaging.requirements import Requirement

    within, tools = [], {}
    needs = map(Requirement, sorted(requirements or metadata.requires("gan_tutorial") or ()))
    for need in (one for one in needs if not one.marker or one.marker.evaluate({"extra": "tools"})):
        package = next(iter(metadata.distributions(name=need.name)), None)
        if package and need.specifier.contains(package.version, prereleases=True):
            within.append(f"{need.name} {package.version}")
        else:
            found = f"{need.name} {package.version if package else 'missing'}, needed is {need.specifier}"
            yield _line(False, "package", found, _INSTALL, "FAIL")
        if package and need.name in ("torch", "numpy", "scikit-learn"):
            tools[need.name] = (package.read_text("INSTALLER") or "unknown").strip()
    yield _line(True, "packages", ", ".join(within) or "none")
    good = "conda" not in tools.values() or len(set(tools.values())) == 1
    yield _line(good, "installed", ", ".join(f"{name} by {tool}" for name, tool in tools.items()), _FRESH)


def check_kernels() -> Iterator[dict]:
    """The kernel called python3, which notebooks name, is this environment's; and all others that Jupyter offers."""
    from jupyter_client.kernelspec import KernelSpecManager

    kernels = KernelSpecManager().get_all_specs()
    starts = {name: " ".join(kernels[name]["spec"]["argv"][:1]) for name in sorted(kernels)}
    command = starts.get("python3", "nothing")  # of "python" Jupyter makes its own interpreter
    own = command in ("python", "python3") or Path(command).parent.resolve() == Path(sys.executable).parent.resolve()
    advice = f'Notebooks would lack these packages. Run: "{sys.executable}" -m ipykernel install --sys-prefix'
    yield _line(own, "kernel", f"python3 starts {command}", advice)
    hidden = util.find_spec("nb_conda_kernels") is not None
    found = ", ".join(f"{name} ({command})" for name, command in starts.items())
    found += f"; nb_conda_kernels is {'' if hidden else 'not '}installed"
    yield _line(not hidden, "kernels", found, "JupyterLab hides python3 then: choose this environment's kernel there.")


def check_openmp() -> Iterator[dict]:
    """The OpenMP runtimes that lie in this environment, whether in use or not."""
    folders = (Path(sys.prefix, name) for name in ("lib", "Library/bin"))  # the second is conda's on Windows
    files = {path.resolve() for folder in folders for path in folder.rglob("lib*omp*") if _FIGHTERS.match(path.name)}
    yield judge_openmp(map(str, files), "OpenMP installed")


def check_torch() -> Iterator[dict]:
    """PyTorch can be imported, multiplies small matrices on each device, and computes beside scikit-learn."""
    import torch

    from gan_tutorial.device import available_devices

    yield _line(True, "PyTorch", torch.__version__)
    advice = "Update its driver and PyTorch; until then: gan-tutorial run --device cpu"
    for device in available_devices():
        try:
            matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
            found = f"a small matrix product gave {(matrix @ matrix).tolist()}"
        except RuntimeError as error:
            found = str(error).partition("\n")[0]
        yield _line(found.endswith("gave [[7.0, 10.0], [15.0, 22.0]]"), f"device {device}", found, advice, "FAIL")
    from sklearn.metrics import pairwise_distances_argmin
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    torch.ones(1 << 20).relu().sum()  # large enough to be shared among threads
    pairwise_distances_argmin(torch.eye(600, 8), torch.eye(8))
    yield judge_openmp(one["filepath"] for one in ThreadpoolController().select(user_api="openmp").info())


def judge_openmp(paths: Iterable[str], name: str = "OpenMP in use") -> dict:
    """Say whether the OpenMP runtimes in these files get along in one process."""
    # Intel's and LLVM's fight, but for copies that packages from PyPI bring along. GNU's and Microsoft's do not.
    files = sorted(Path(path).as_posix() for path in paths)
    fighters = [file for file in files if _FIGHTERS.match(Path(file).name)]
    sources = {"PyPI" if "/site-packages/" in file else file for file in fighters}
    advice = f"Together they kill or freeze the kernel, and KMP_DUPLICATE_LIB_OK only hides it. {_FRESH}"
    return _line(len(sources) < 2, name, ", ".join(files) or "none", advice)


def check_data() -> Iterator[dict]:
    """All of MNIST at hand; nothing is downloaded here."""
    from gan_tutorial.data import FOLDER_VARIABLE, DataError, notice, resolve_source

    named = os.environ.get(FOLDER_VARIABLE)
    cure = "Until then the notebooks take a sample of 5,000 digits. While online: gan-tutorial data --fetch"
    try:
        source = resolve_source("sample" if named == "sample" else "folder" if named else "cache")
        yield _line(True, "data", notice(source, asked_for=source).removeprefix("Data: "))
    except (DataError, OSError) as error:
        cure = f"Let {FOLDER_VARIABLE} name a folder with MNIST that you may read, or unset it." if named else cure
        yield _line(False, "data", str(error), cure, "FAIL" if named else "WARN")


def examine(check: str, timeout: float = 120) -> list[dict]:
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
    if child.returncode != 0 or output[-1:] != ["finished"]:
        message = next((text for text in errors if text.startswith(("OMP: Error", "Timeout"))), errors[-1])
        advice = _INSTALL if "ModuleNotFoundError" in message else f"A notebook would stop in the same way. {_FRESH}"
        lines.append(_line(False, check, f"exit code {child.returncode}: {message[:300]}", advice, "FAIL"))
    return lines


def main(as_json: bool = False) -> int:
    """Print the report, as lines or as one JSON object; return 1 if anything failed, else 0."""
    report = [line for check in CHECKS for line in examine(check)]
    status = max((line["status"] for line in report), key=["OK", "WARN", "FAIL"].index)
    if as_json:
        print(json.dumps({"status": status, "checks": report}, indent=2))
    for line in [] if as_json else report:
        advice = f"\n    -> {line['advice']}" if line["advice"] else ""
        print(f"[{line['status']}] {line['name']}: {line['found']}{advice}")
    return int(status == "FAIL")
