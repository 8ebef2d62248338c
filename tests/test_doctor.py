"""The doctor names what is wrong, says what to do, cries no wolf, and survives what would kill a kernel."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest
import torch

from gan_tutorial.tools import doctor

ELSEWHERE = Path("elsewhere").absolute()


def only(checks):
    """Return the one line that a check yields."""
    (line,) = checks
    return line


def by_name(lines):
    return {line["name"]: line for line in lines}


def statuses(lines):
    return {line["name"]: line["status"] for line in lines}


def test_an_old_python_fails(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    line = next(doctor.check_machine())
    assert (line["status"], line["found"][:6], "3.11" in line["advice"]) == ("FAIL", "3.10.4", True)


def test_an_intel_python_on_apple_silicon_is_warned_about(monkeypatch):
    true_processor = (
        "Darwin Kernel Version 21.5.0: Tue Apr 26 21:08:29 PDT 2022; root:xnu-8020.121.3~4/RELEASE_ARM64_T8101"
    )
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "version", lambda: true_processor)
    line = by_name(doctor.check_machine())["architecture"]
    assert (line["status"], "arm64" in line["advice"]) == ("WARN", True)


def test_the_kind_of_environment_is_named(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/an/environment")
    line = by_name(doctor.check_machine())["interpreter"]
    assert (line["status"], "virtual environment" in line["found"]) == ("OK", True)
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    line = by_name(doctor.check_machine())["interpreter"]
    assert (line["status"], "no environment" in line["found"]) == ("WARN", True)


def test_in_a_conda_environment_it_is_named_and_the_cure_is_not_pip(tmp_path):
    (tmp_path / "conda-meta").mkdir()
    code = (
        f"import sys; sys.prefix = {str(tmp_path)!r}; from gan_tutorial.tools import doctor as d; "
        "print(*d.check_machine(), *d.check_packages(['numpy>=99']))"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "(conda environment)" in text
    assert "conda env update" in text
    assert "pip install" not in text


def test_too_little_memory_or_disk_is_warned_about(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5e8))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1e6))
    lines = by_name(doctor.check_machine())
    assert (lines["memory"]["status"], lines["memory"]["found"]) == ("WARN", "0.5 GB available")
    assert (lines["disk"]["status"], "GAN_TUTORIAL_CACHE" in lines["disk"]["advice"]) == ("WARN", True)


def test_a_cache_folder_not_yet_made_is_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(tmp_path / "not" / "yet"))
    line = by_name(doctor.check_machine())["disk"]
    assert (line["status"], str(tmp_path / "not" / "yet") in line["found"]) == ("OK", True)
    assert list(tmp_path.iterdir()) == []


def test_the_bounds_of_the_package_and_of_its_command_come_from_the_installed_metadata():
    line = only(doctor.check_packages())
    assert line["status"] == "OK"
    assert {"torch", "numpy", "papermill"} <= {part.split()[0] for part in line["found"].split(", ")}
    assert "ruff" not in line["found"]  # asked for by the extra `test` only


def test_a_version_below_its_bound_fails_and_the_others_are_still_listed():
    problem, rest = doctor.check_packages(["numpy>=99", "pooch>=1"])
    assert problem["status"] == "FAIL"
    assert problem["found"] == f"numpy {metadata.version('numpy')}, needed is >=99"
    assert 'pip install "gan_tutorial[tools]"' in problem["advice"]
    assert (rest["status"], rest["found"]) == ("OK", f"pooch {metadata.version('pooch')}")


def test_a_missing_package_fails_but_for_one_of_another_platform():
    found = next(doctor.check_packages(["no-such-package>=1.2"]))["found"]
    assert found == "no-such-package missing, needed is >=1.2"
    assert only(doctor.check_packages(['no-such-package>=1; sys_platform == "amiga"']))["status"] == "OK"


@pytest.mark.parametrize(
    ("tools", "status"),
    [("pip conda conda", "WARN"), ("conda conda conda", "OK"), ("pip pip pip", "OK"), ("pip uv pip", "OK")],
)
def test_pytorch_from_pip_among_packages_from_conda_is_warned_about(tools, status, tmp_path):
    for name, tool in zip(("torch", "numpy", "scikit_learn"), tools.split(), strict=True):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "INSTALLER").write_text(f"{tool}\n")
    line = next(doctor.check_mixture(packages=str(tmp_path)))
    torch_tool, numpy_tool, sklearn_tool = tools.split()
    assert line["found"] == f"torch by {torch_tool}, numpy by {numpy_tool}, scikit-learn by {sklearn_tool}"
    assert line["status"] == status


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Return a function that puts a kernel where Jupyter looks first, and then checks."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))

    def install(name, *argv, language="python"):
        (tmp_path / "kernels" / name).mkdir(parents=True)
        spec = {"argv": argv, "language": language, "display_name": "a kernel"}
        (tmp_path / "kernels" / name / "kernel.json").write_text(json.dumps(spec))
        return only(doctor.check_kernels())

    return install


def test_a_python3_kernel_of_another_interpreter_is_warned_about(kernels):
    kernels("course", sys.executable, "-m", "ipykernel_launcher")
    line = kernels("python3", str(ELSEWHERE / "bin" / "python"), "-m", "ipykernel_launcher")
    assert line["status"] == "WARN"
    assert "course of this environment" in line["found"]
    assert f"python3 of {ELSEWHERE}" in line["found"]
    assert "ipykernel install --sys-prefix" in line["advice"]


@pytest.mark.parametrize("command", ["python", "python3", sys.executable])
def test_a_bare_python_is_the_interpreter_that_runs_jupyter(command, kernels, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    line = kernels("python3", command, "-m", "ipykernel_launcher")
    assert line["status"] == "OK"
    assert "python3 of this environment" in line["found"]


def test_another_conda_environment_is_told_apart_although_its_kernel_starts_as_python(kernels, tmp_path, monkeypatch):
    argv = ["python", "-m", "nb_conda_kernels.runner", "/conda", str(ELSEWHERE), "python"]
    spec = {"argv": argv, "language": "python", "metadata": {"conda_env_path": str(ELSEWHERE)}}
    (tmp_path / "nb_conda_kernels.py").write_text(
        "class CondaKernelSpecManager:\n"
        f"    def get_all_specs(self):\n        return {{'conda-env-other-py': {{'spec': {spec!r}}}}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    line = kernels("python3", sys.executable)
    monkeypatch.delitem(sys.modules, "nb_conda_kernels")
    assert line["status"] == "OK"
    assert f"conda-env-other-py of {ELSEWHERE}" in line["found"]


SITE = "/env/lib/python3.12/site-packages/"


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ([SITE + "torch/lib/libgomp.so.1", SITE + "scikit_learn.libs/libgomp-e985bcbb.so.1.0.0"], "OK"),
        ([SITE + "torch/lib/libomp.dylib", SITE + "sklearn/.dylibs/libomp.dylib"], "OK"),
        ([SITE + "torch/lib/libiomp5md.dll", SITE + "torch/lib/libomp140.x86_64.dll"], "OK"),
        ([SITE + "torch/lib/libiomp5md.dll", SITE + "sklearn/.libs/vcomp140.dll"], "OK"),
        (["/env/lib/libiomp5.so", SITE + "torch/lib/libgomp.so.1"], "OK"),
        ([SITE + "torch/lib/libomptarget.so", SITE + "torch/lib/libiompstubs5md.dll"], "OK"),
        (["/env/lib/libomp.so", "/env/lib/libiomp5.so"], "WARN"),
        (["/env/lib/libomp.dylib", SITE + "torch/lib/libomp.dylib"], "WARN"),
        ([SITE + "torch/lib/libiomp5.dylib", SITE + "sklearn/.dylibs/libomp.dylib"], "WARN"),
        (["/env/Library/bin/libiomp5md.dll", SITE + "torch/lib/libiomp5md.dll"], "WARN"),
    ],
)
def test_only_openmp_runtimes_that_fight_are_warned_about(files, status):
    assert doctor.judge_openmp("OpenMP", map(Path, files))["status"] == status


def test_the_openmp_runtimes_are_named_with_who_brought_them():
    files = [SITE + "torch/lib/libgomp.so.1", SITE + "scikit_learn.libs/libgomp-e985bcbb.so.1.0.0"]
    found = doctor.judge_openmp("OpenMP", map(Path, files))["found"]
    assert found == "libgomp of scikit_learn.libs, libgomp of torch; they get along"


def openmp_on_disk(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return by_name(doctor.check_mixture(str(folder), str(folder / "lib/python3.12/site-packages")))["OpenMP installed"]


@pytest.mark.parametrize("brought", ["torch/lib/libiomp5.dylib", "torch.libs/libomp-1.so", "a/.dylibs/libomp.dylib"])
def test_an_openmp_runtime_of_conda_beside_one_of_pip_is_found_on_disk(brought, tmp_path):
    files = ("lib/libomp.dylib", f"lib/python3.12/site-packages/{brought}")
    assert openmp_on_disk(tmp_path, *files)["status"] == "WARN"


@pytest.mark.skipif(os.name == "nt", reason="links need special rights on Windows")
def test_two_names_of_one_openmp_runtime_are_one(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libiomp5.so").symlink_to(tmp_path / "lib/libomp.so")
    line = openmp_on_disk(tmp_path, "lib/libomp.so")
    assert (line["status"], line["found"]) == ("OK", f"libomp of {tmp_path.resolve() / 'lib/libomp.so'}")


def test_a_device_that_computes_wrongly_or_raises_fails_and_what_it_said_is_shown(monkeypatch):
    monkeypatch.setattr(torch, "tensor", lambda rows, device: torch.ones(2, 2))
    line = by_name(doctor.check_torch())["device cpu"]
    assert (line["status"], "gave [[2.0, 2.0], [2.0, 2.0]]" in line["found"]) == ("FAIL", True)
    monkeypatch.setattr(torch, "tensor", Mock(side_effect=RuntimeError("no kernel image\nmany more lines")))
    line = by_name(doctor.check_torch())["device cpu"]
    assert (line["status"], line["found"]) == ("FAIL", "a small matrix product gave no kernel image")


def test_without_mnist_the_sample_is_named_and_in_a_wrong_folder_the_variable(tmp_path, monkeypatch):
    line = only(doctor.check_data())
    assert (line["status"], "sample" in line["advice"], "data --fetch" in line["advice"]) == ("WARN", True, True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(tmp_path / "nothing"))
    line = only(doctor.check_data())
    assert (line["status"], "GAN_TUTORIAL_DATA" in line["advice"]) == ("FAIL", True)


def test_the_data_that_are_there_are_named(official_folder, monkeypatch):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(official_folder))
    line = only(doctor.check_data())
    assert (line["status"], line["found"][:12]) == ("OK", "all of MNIST")
    monkeypatch.setenv("GAN_TUTORIAL_DATA", "sample")
    line = only(doctor.check_data())
    assert (line["status"], "sample (4,000 training" in line["found"]) == ("OK", True)


@pytest.mark.skipif(os.name == "nt", reason="folders have other rights on Windows")
def test_an_unreadable_data_folder_is_one_line_about_data(tmp_path):
    """Whoever may read everything becomes somebody else first."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0)
    code = (
        "import json, os\nfrom gan_tutorial.tools import doctor\nimport torch, gan_tutorial.data\n"
        "os.getuid() or os.setuid(65534)\nprint(json.dumps(list(doctor.check_data())))"
    )
    environment = os.environ | {"GAN_TUTORIAL_DATA": str(folder)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    line = only(json.loads(result.stdout))
    assert (line["status"], line["name"], str(folder) in line["found"]) == ("FAIL", "data", True)
    assert "that you may read" in line["advice"]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a function that puts a stand-in for a package, given as its source, before the real one."""
    monkeypatch.chdir(tmp_path)  # a core dump would land here
    folders = [str(tmp_path / "path"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))

    def write(package, source):
        (tmp_path / "path" / package).mkdir(parents=True)
        (tmp_path / "path" / package / "__init__.py").write_text(source)

    return write


ABORTED = "SIGABRT" if os.name == "posix" else "exit code 3"
OPENMP_ABORTS = (
    "print('OMP: Error #15: found another', 'OMP: Hint', sep='\\n', file=sys.stderr, flush=True); os.abort()"
)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("os.abort()", f"{ABORTED}: no message"),
        (OPENMP_ABORTS, f"{ABORTED}: OMP: Error #15: found another"),
        ("sys.exit(0)", "exit code 0: no message"),
        ("os._exit(0)", "exit code 0: no message"),
        ("time.sleep(60)", "exit code 1: Timeout (0:00:02)!"),
        ("raise ImportError('a library is missing')", "exit code 1: ImportError: a library is missing"),
    ],
)
def test_an_import_of_pytorch_that_ends_badly_is_one_failure_that_says_how(source, found, stand_in):
    stand_in("torch", f"import os, sys, time\n{source}")
    line = only(doctor.examine("torch", timeout=2))
    assert (line["status"], line["name"], line["found"]) == ("FAIL", "torch", found)


def test_when_an_import_ends_the_process_with_exit_code_0_that_fails_and_all_else_is_checked(stand_in, capsys):
    stand_in("torch", "import sys; sys.exit(0)")
    assert doctor.main(as_json=True) == 1
    lines = statuses(json.loads(capsys.readouterr().out)["checks"])
    assert (lines["torch"], lines["data"]) == ("FAIL", "FAIL")
    assert {"Python", "interpreter", "disk", "memory", "packages", "installed", "kernels"} <= lines.keys()


def test_a_crash_of_two_openmp_runtimes_leaves_the_other_results(stand_in):
    stand_in("sklearn", "import os; print('noise', end='', flush=True); os.abort()")
    lines = statuses(doctor.examine("torch"))
    assert {"PyTorch": "OK", "device cpu": "OK", "torch": "FAIL"}.items() <= lines.items()


def test_a_crash_when_python_ends_is_reported(stand_in):
    stand_in("psutil", "import atexit, os\natexit.register(os.abort)\nclass virtual_memory:\n    available = 9e9")
    *others, problem = doctor.examine("machine")
    assert set(statuses(others).values()) == {"OK"}
    assert (problem["status"], problem["name"]) == ("FAIL", "machine")


@pytest.mark.parametrize(
    ("package", "check", "left"),
    [
        ("psutil", "machine", {"Python", "interpreter", "disk"}),
        ("packaging", "packages", set()),
        ("jupyter_client", "kernels", set()),
        ("threadpoolctl", "torch", {"PyTorch", "device cpu"}),
    ],
)
def test_without_the_extra_tools_the_package_is_named_and_the_cure_and_the_rest_is_checked(
    package, check, left, stand_in
):
    stand_in(package, f"raise ModuleNotFoundError({f'No module named {package!r}'!r})")
    *others, problem = doctor.examine(check)
    assert left <= statuses(others).keys()
    assert (problem["status"], problem["name"], package in problem["found"]) == ("FAIL", check, True)
    assert 'pip install "gan_tutorial[tools]"' in problem["advice"]


def test_this_environment_passes_and_every_line_is_there(capsys, monkeypatch):
    assert doctor.main(as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    lines = statuses(report["checks"])
    assert "FAIL" not in lines.values()
    expected = "Python,interpreter,disk,memory,installed,OpenMP installed,packages,kernels,PyTorch,device cpu"
    assert {*expected.split(","), "OpenMP in use", "data"} <= lines.keys()
    assert report["status"] == max(lines.values(), key=["OK", "WARN", "FAIL"].index)


FINE = {"status": "OK", "name": "colour", "found": "blue", "advice": ""}
DOUBTFUL = {"status": "WARN", "name": "weather", "found": "rain", "advice": "Take an umbrella."}
BAD = {"status": "FAIL", "name": "roof", "found": "a hole", "advice": "Mend it."}


@pytest.mark.parametrize(
    ("lines", "code", "status"), [([FINE], 0, "OK"), ([DOUBTFUL, FINE], 0, "WARN"), ([BAD, DOUBTFUL, FINE], 1, "FAIL")]
)
def test_the_exit_code_is_1_only_on_failure_and_each_line_has_its_status_and_advice(
    lines, code, status, capsys, monkeypatch
):
    monkeypatch.setattr(doctor, "CHECKS", ("one",))
    monkeypatch.setattr(doctor, "examine", lambda check: lines)
    assert doctor.main(as_json=True) == code
    assert json.loads(capsys.readouterr().out) == {"status": status, "checks": lines}
    assert doctor.main() == code
    texts = {
        "OK": "[OK]   colour: blue\n",
        "WARN": "[WARN] weather: rain\n       -> Take an umbrella.\n",
        "FAIL": "[FAIL] roof: a hole\n       -> Mend it.\n",
    }
    assert capsys.readouterr().out == "".join(texts[line["status"]] for line in lines)


def test_importing_the_doctor_does_not_import_pytorch():
    code = "import sys, gan_tutorial.tools.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
