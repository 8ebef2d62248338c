"""The doctor names what is wrong, says what to do, cries no wolf, and survives what would kill a kernel."""

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest
import torch

from gan_tutorial.tools import doctor


def only(checks):
    """Return the one line that a check yields."""
    (line,) = checks
    return line


def by_name(lines):
    return {line["name"]: line for line in lines}


def statuses(lines):
    return {line["name"]: line["status"] for line in lines}


def test_an_old_python_one_without_an_environment_and_one_for_intel_on_apple_silicon_are_told(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "version", lambda: "Darwin Kernel Version 21.5.0: xnu-8020/RELEASE_ARM64_T8101")
    lines = by_name(doctor.check_machine())
    assert (lines["Python"]["status"], "3.11" in lines["Python"]["advice"]) == ("FAIL", True)
    assert (lines["architecture"]["status"], "arm64" in lines["architecture"]["advice"]) == ("WARN", True)
    assert (lines["interpreter"]["status"], "no environment" in lines["interpreter"]["found"]) == ("WARN", True)


def test_in_a_conda_environment_it_is_named_and_the_cure_is_not_pip(tmp_path):
    (tmp_path / "conda-meta").mkdir()
    code = f"import sys; sys.prefix = {str(tmp_path)!r}; from gan_tutorial.tools import doctor as d; "
    code += "print(*d.check_machine(), *d.check_packages(['numpy>=99']))"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "(conda environment)" in text
    assert "conda env update" in text
    assert "pip install" not in text


def test_too_little_memory_or_disk_is_warned_about_but_not_a_cache_folder_not_yet_made(monkeypatch, tmp_path):
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(tmp_path / "not" / "yet"))
    disk = by_name(doctor.check_machine())["disk"]
    assert (disk["status"], str(tmp_path / "not" / "yet") in disk["found"]) == ("OK", True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5e8))
    monkeypatch.setattr(psutil, "disk_usage", lambda folder: SimpleNamespace(free=1e6))
    lines = by_name(doctor.check_machine())
    assert (lines["memory"]["status"], lines["memory"]["found"]) == ("WARN", "0.5 GB available")
    assert (lines["disk"]["status"], "GAN_TUTORIAL_CACHE" in lines["disk"]["advice"]) == ("WARN", True)


def test_the_bounds_of_the_package_and_of_its_command_come_from_the_installed_metadata():
    lines = by_name(doctor.check_packages())
    assert set(statuses(lines.values()).values()) == {"OK"}
    found = lines["packages"]["found"]
    assert {"torch", "numpy", "papermill"} <= {part.split()[0] for part in found.split(", ")}
    assert "ruff" not in found  # asked for by the extra `test` only


def test_a_missing_package_or_one_below_its_bound_fails_and_the_others_are_still_listed():
    needs = ["numpy>=99", "pooch>=1", "no-such-package>=1.2", 'no-package>=1; sys_platform == "amiga"']
    missing, old, rest, _ = doctor.check_packages(needs)
    assert (missing["status"], missing["found"]) == ("FAIL", "no-such-package missing, needed is >=1.2")
    assert (old["status"], old["found"]) == ("FAIL", f"numpy {metadata.version('numpy')}, needed is >=99")
    assert 'pip install "gan_tutorial[tools]"' in old["advice"]
    assert (rest["status"], rest["found"]) == ("OK", f"pooch {metadata.version('pooch')}")


@pytest.mark.parametrize(
    ("tools", "status"),
    [("pip conda conda", "WARN"), ("conda conda conda", "OK"), ("pip pip pip", "OK"), ("pip uv pip", "OK")],
)
def test_pytorch_from_pip_among_packages_from_conda_is_warned_about(tools, status, tmp_path, monkeypatch):
    for name, tool in zip(("torch", "numpy", "scikit_learn"), tools.split(), strict=True):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "INSTALLER").write_text(f"{tool}\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = by_name(doctor.check_packages(["torch", "numpy", "scikit-learn"]))["installed"]
    torch_tool, numpy_tool, sklearn_tool = tools.split()
    assert line["found"] == f"numpy by {numpy_tool}, scikit-learn by {sklearn_tool}, torch by {torch_tool}"
    assert line["status"] == status


@pytest.mark.parametrize(
    ("command", "status"),
    [("python", "OK"), ("python3", "OK"), (sys.executable, "OK"), ("/elsewhere/bin/python", "WARN")],
    ids=["python", "python3", "this", "another"],
)
def test_only_a_python3_kernel_of_another_interpreter_is_warned_about(command, status, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))  # where Jupyter looks first
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    spec = {"argv": [command, "-m", "ipykernel_launcher"], "language": "python", "display_name": "a kernel"}
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    line = by_name(doctor.check_kernels())["kernel"]
    assert (line["status"], line["found"]) == (status, f"python3 starts {command}")
    assert ("ipykernel install --sys-prefix" in line["advice"]) == (status == "WARN")


def test_all_kernels_are_listed_and_nb_conda_kernels_which_hides_python3_is_warned_about(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    for name, argv in (("julia-1.11", ["/opt/julia", "-i"]), ("remote", [])):
        (tmp_path / "kernels" / name).mkdir(parents=True)
        spec = {"argv": argv, "language": "some", "display_name": name}
        (tmp_path / "kernels" / name / "kernel.json").write_text(json.dumps(spec))
    line = by_name(doctor.check_kernels())["kernels"]
    assert line["status"] == "OK"
    assert {"julia-1.11 (/opt/julia)", "remote ()"} <= set(line["found"].partition(";")[0].split(", "))
    assert "python3 (" in line["found"]
    assert line["found"].endswith("; nb_conda_kernels is not installed")
    (tmp_path / "nb_conda_kernels.py").write_text("raise ImportError('it is found, not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    line = by_name(doctor.check_kernels())["kernels"]
    assert (line["status"], "hides python3" in line["advice"]) == ("WARN", True)
    assert line["found"].endswith("; nb_conda_kernels is installed")


SITE = "/env/lib/python3.12/site-packages/"


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ([SITE + "torch/lib/libgomp.so.1", SITE + "scikit_learn.libs/libgomp-e985bcbb.so.1.0.0"], "OK"),
        ([SITE + "torch/lib/libomp.dylib", SITE + "sklearn/.dylibs/libomp.dylib"], "OK"),
        ([SITE + "torch/lib/libiomp5md.dll", SITE + "torch/lib/libomp140.x86_64.dll"], "OK"),
        ([SITE + "torch/lib/libiomp5md.dll", SITE + "sklearn/.libs/vcomp140.dll"], "OK"),
        (["/env/lib/libiomp5.so", SITE + "torch/lib/libgomp.so.1"], "OK"),
        (["/env/lib/libomp.so", "/env/lib/libiomp5.so"], "WARN"),
        (["/env/lib/libomp.dylib", SITE + "torch/lib/libomp.dylib"], "WARN"),
        (["/env/Library/bin/libiomp5md.dll", SITE + "torch/lib/libiomp5md.dll"], "WARN"),
    ],
)
def test_openmp_runtimes_are_named_and_only_those_that_fight_are_warned_about(files, status):
    line = doctor.judge_openmp(files)
    assert (line["status"], line["found"]) == (status, ", ".join(sorted(files)))


@pytest.mark.parametrize(
    ("harmless", "fighters", "status"),
    [
        (["lib/python3.12/site-packages/torch/lib/libgomp.so.1", "lib/libgomp.so.1"], [], "OK"),
        (["lib/libompd.so", "lib/libomptarget.so", "lib/libomp.a"], ["lib/libomp.so"], "OK"),
        (["lib/site-packages/torch/lib/libiomp5md.lib"], ["lib/site-packages/torch/lib/libiomp5md.dll"], "OK"),
        ([], ["lib/libomp.dylib", "lib/python3.12/site-packages/torch/lib/libomp.dylib"], "WARN"),
        ([], ["lib/libiomp5.so", "lib/python3.12/site-packages/some.libs/libomp-9a8b.so.5.1"], "WARN"),
        ([], ["Library/bin/libiomp5md.dll", "lib/site-packages/torch/lib/libiomp5md.dll"], "WARN"),
    ],
)
def test_openmp_runtimes_on_disk_are_named_and_those_of_conda_and_pip_side_by_side_warned_about(
    harmless, fighters, status, tmp_path, monkeypatch
):
    for file in [*harmless, *fighters]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    line = only(doctor.check_openmp())
    paths = sorted((tmp_path / file).resolve().as_posix() for file in fighters)
    assert (line["status"], line["name"], line["found"]) == (status, "OpenMP installed", ", ".join(paths) or "none")


@pytest.mark.skipif(os.name == "nt", reason="not every user may make links on Windows")
def test_two_names_of_one_openmp_runtime_are_one(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libomp.so").touch()
    (tmp_path / "lib" / "libiomp5.so").symlink_to("libomp.so")  # as conda-forge has it
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert only(doctor.check_openmp())["status"] == "OK"


TWO_RUNTIMES = """
import ctypes, json, sys
from gan_tutorial.tools import doctor
for library in sys.argv[1:]:
    ctypes.CDLL(library)
print(json.dumps(list(doctor.check_torch())))
"""


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="builds shared libraries")
def test_an_openmp_runtime_of_conda_beside_one_of_pip_in_one_process_is_warned_about(tmp_path):
    files = [tmp_path / "lib" / "libomp.so", tmp_path / "site-packages" / "torch" / "libomp.so"]
    source = b"int omp_get_max_threads(void) { return 1; }"  # what threadpoolctl asks a runtime for
    for file in files:
        file.parent.mkdir(parents=True)
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", file], input=source, check=True)
    command = [sys.executable, "-c", TWO_RUNTIMES, *map(str, files)]
    line = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[-1]
    assert (line["status"], line["name"]) == ("WARN", "OpenMP in use")
    assert all(str(file) in line["found"] for file in files)


def test_a_device_that_computes_wrongly_or_raises_fails_and_what_it_said_is_shown(monkeypatch):
    monkeypatch.setattr(torch, "tensor", lambda rows, device: torch.ones(2, 2))
    line = by_name(doctor.check_torch())["device cpu"]
    assert (line["status"], "gave [[2.0, 2.0], [2.0, 2.0]]" in line["found"]) == ("FAIL", True)
    monkeypatch.setattr(torch, "tensor", Mock(side_effect=RuntimeError("no kernel image\nmany more lines")))
    line = by_name(doctor.check_torch())["device cpu"]
    assert (line["status"], line["found"]) == ("FAIL", "no kernel image")


def test_the_data_that_are_there_are_named_or_what_to_do(tmp_path, monkeypatch, official_folder):
    line = only(doctor.check_data())
    assert (line["status"], "sample" in line["advice"], "data --fetch" in line["advice"]) == ("WARN", True, True)
    assert list(tmp_path.iterdir()) == []
    for named, status, found in (
        (tmp_path / "nothing", "FAIL", "nothing"),
        (official_folder, "OK", "all of MNIST"),
        ("sample", "OK", "sample (4,000 training"),
    ):
        monkeypatch.setenv("GAN_TUTORIAL_DATA", str(named))
        line = only(doctor.check_data())
        assert (line["status"], found in line["found"]) == (status, True)
        assert ("GAN_TUTORIAL_DATA" in line["advice"]) == (status == "FAIL")


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
    folders = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))
    return lambda package, source: (tmp_path / f"{package}.py").write_text(source)


ABORTED = "exit code -6" if os.name == "posix" else "exit code 3"
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
    assert {"Python", "interpreter", "disk", "memory", "packages", "installed", "kernel"} <= lines.keys()


def test_a_crash_beside_scikit_learn_leaves_the_other_results(stand_in):
    stand_in("sklearn", "import os; print('noise', end='', flush=True); os.abort()")
    lines = statuses(doctor.examine("torch"))
    assert {"PyTorch": "OK", "device cpu": "OK", "torch": "FAIL"}.items() <= lines.items()


def test_a_crash_when_python_ends_is_reported(stand_in):
    room = "class Room:\n    free = available = 9e9\ndisk_usage = virtual_memory = lambda *_: Room"
    stand_in("psutil", f"import atexit, os\natexit.register(os.abort)\n{room}")
    *others, problem = doctor.examine("machine")
    assert set(statuses(others).values()) == {"OK"}
    assert (problem["status"], problem["name"]) == ("FAIL", "machine")


@pytest.mark.parametrize(
    ("package", "check", "left"),
    [
        ("psutil", "machine", set()),
        ("packaging", "packages", set()),
        ("jupyter_client", "kernels", set()),
        ("threadpoolctl", "torch", {"PyTorch", "device cpu"}),
    ],
)
def test_without_the_extra_tools_the_package_is_named_and_the_cure(package, check, left, stand_in):
    stand_in(package, f"raise ModuleNotFoundError({f'No module named {package!r}'!r})")
    *others, problem = doctor.examine(check)
    assert left <= statuses(others).keys()
    assert (problem["status"], problem["name"], package in problem["found"]) == ("FAIL", check, True)
    assert 'pip install "gan_tutorial[tools]"' in problem["advice"]


REPORT = [
    {"status": "OK", "name": "colour", "found": "blue", "advice": ""},
    {"status": "WARN", "name": "weather", "found": "rain", "advice": "Take an umbrella."},
    {"status": "FAIL", "name": "roof", "found": "a hole", "advice": "Mend it."},
]
PRINTED = [
    "[OK] colour: blue",
    "[WARN] weather: rain",
    "    -> Take an umbrella.",
    "[FAIL] roof: a hole",
    "    -> Mend it.",
]


@pytest.mark.parametrize(("count", "code", "status"), [(1, 0, "OK"), (2, 0, "WARN"), (3, 1, "FAIL")])
def test_the_exit_code_is_1_only_on_failure_and_advice_follows_its_line(count, code, status, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", ("one",))
    monkeypatch.setattr(doctor, "examine", lambda check: REPORT[:count])
    assert doctor.main(as_json=True) == code
    assert json.loads(capsys.readouterr().out) == {"status": status, "checks": REPORT[:count]}
    assert doctor.main() == code
    assert capsys.readouterr().out.splitlines() == PRINTED[: 2 * count - 1]


def test_importing_the_doctor_does_not_import_pytorch():
    code = "import sys, gan_tutorial.tools.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
