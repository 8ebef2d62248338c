"""The doctor names what is wrong, says what to do, cries no wolf, and survives what would kill a kernel."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from gan_tutorial.tools import doctor
from gan_tutorial.tools.doctor import Check

ELSEWHERE = Path("elsewhere").absolute()


def only(checks):
    """Return the one line that a check yields."""
    (line,) = checks
    return line


def statuses(checks):
    return {line.name: line.status for line in checks}


def test_an_old_python_fails():
    line = only(doctor.check_python(version=(3, 10, 4), translated=False))
    assert (line.status, "3.10.4" in line.found, "3.11" in line.advice) == ("FAIL", True, True)


def test_an_intel_python_on_apple_silicon_is_warned_about():
    lines = list(doctor.check_python(version=(3, 12, 1), translated=True))
    assert statuses(lines) == {"Python": "OK", "architecture": "WARN"}
    assert "arm64" in lines[1].advice


def test_this_python_is_fine():
    assert only(doctor.check_python()).status == "OK"


def test_the_kind_of_environment_is_named(tmp_path):
    assert "virtual environment" in only(doctor.check_interpreter("/an/environment", "/usr")).found
    assert only(doctor.check_interpreter("/usr", "/usr")).status == "WARN"
    (tmp_path / "conda-meta").mkdir()
    line = only(doctor.check_interpreter(str(tmp_path), str(tmp_path)))
    assert (line.status, "conda environment" in line.found) == ("OK", True)


def test_the_bounds_come_from_the_installed_metadata():
    line = only(doctor.check_packages())
    assert line.status == "OK"
    assert {"torch", "numpy", "papermill"} <= {part.split()[0] for part in line.found.split(", ")}
    assert "ruff" not in line.found  # asked for by the extra `test` only


def test_a_version_below_its_bound_fails_and_the_others_are_still_listed():
    problem, rest = doctor.check_packages(["numpy>=99", "pooch>=1"])
    assert problem.status == "FAIL"
    assert problem.found == f"numpy {metadata.version('numpy')}, needed is >=99"
    assert 'pip install "numpy>=99"' in problem.advice
    assert rest == Check("OK", "packages", f"pooch {metadata.version('pooch')}")


def test_a_missing_package_fails():
    assert next(doctor.check_packages(["no-such-package>=1.2"])).found == "no-such-package missing, needed is >=1.2"


def test_a_package_for_another_platform_is_not_asked_for():
    assert only(doctor.check_packages(['no-such-package>=1; sys_platform == "amiga"'])).status == "OK"


def test_in_a_conda_environment_the_cure_is_not_pip(tmp_path):
    (tmp_path / "conda-meta").mkdir()
    assert "conda env update" in next(doctor.check_packages(["numpy>=99"], str(tmp_path))).advice


def conda_environment(folder, names):
    """Write the records that conda would keep of these packages in the versions that are installed here."""
    (folder / "conda-meta").mkdir()
    for conda_name, name in names.items():
        version = metadata.version(name)
        file = f"lib/python3/site-packages/{name.replace('-', '_')}-{version}.dist-info/METADATA"
        (folder / "conda-meta" / f"{conda_name}-{version}-0.json").write_text(json.dumps({"files": [file]}))
    return str(folder)


def test_pytorch_from_pip_among_packages_from_conda_is_warned_about(tmp_path):
    prefix = conda_environment(tmp_path, {"numpy": "numpy", "scikit-learn": "scikit-learn"})
    line = only(doctor.check_mixture(prefix))
    assert (line.status, line.found) == ("WARN", "numpy, scikit-learn by conda; torch by pip")


def test_packages_all_from_conda_or_all_from_pip_are_fine(tmp_path):
    names = {"pytorch": "torch", "numpy": "numpy", "scikit-learn": "scikit-learn"}
    assert only(doctor.check_mixture(conda_environment(tmp_path, names))).status == "OK"
    assert only(doctor.check_mixture(str(tmp_path / "none"))).found == "torch, numpy, scikit-learn by pip"


def kernel(*argv, **metadata):
    return {"argv": list(argv), "language": "python", "display_name": "a kernel", "metadata": metadata}


def install_kernel(folder, name, spec):
    """Put a kernel where Jupyter looks when JUPYTER_PATH names ``folder``."""
    (folder / "kernels" / name).mkdir(parents=True)
    (folder / "kernels" / name / "kernel.json").write_text(json.dumps(spec))


def test_a_python3_kernel_of_another_interpreter_is_warned_about(tmp_path, monkeypatch):
    install_kernel(tmp_path, "python3", kernel(str(ELSEWHERE / "bin" / "python"), "-m", "ipykernel_launcher"))
    install_kernel(tmp_path, "course", kernel(sys.executable, "-m", "ipykernel_launcher"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    line = only(doctor.check_kernels())
    assert line.status == "WARN"
    assert "course of this environment" in line.found
    assert f"python3 of {ELSEWHERE}" in line.found
    assert "choose course" in line.advice


def test_no_kernel_of_this_environment_is_warned_about():
    line = only(doctor.check_kernels({"python3": kernel(str(ELSEWHERE / "bin" / "python"))}))
    assert (line.status, line.found) == ("WARN", f"none of this environment; python3 of {ELSEWHERE}")
    assert "ipykernel install --sys-prefix" in line.advice


def test_a_bare_python_is_the_interpreter_that_runs_jupyter(tmp_path, monkeypatch):
    install_kernel(tmp_path, "python3", kernel("python", "-m", "ipykernel_launcher"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    line = only(doctor.check_kernels())
    assert line.status == "OK"
    assert "python3" in line.found.partition(" of this environment")[0]


def test_another_conda_environment_is_told_apart_although_its_kernel_starts_as_python():
    runner = ("python", "-m", "nb_conda_kernels.runner", "/conda", str(ELSEWHERE), "python")
    specs = {"conda-env-other-py": kernel(*runner, conda_env_path=str(ELSEWHERE)), "python3": kernel(sys.executable)}
    line = only(doctor.check_kernels(specs))
    assert (line.status, line.found) == ("OK", f"python3 of this environment; conda-env-other-py of {ELSEWHERE}")


def test_the_kernels_that_nb_conda_kernels_adds_are_offered_too(tmp_path):
    spec = kernel("python", conda_env_path=str(ELSEWHERE))
    (tmp_path / "nb_conda_kernels.py").write_text(
        "class CondaKernelSpecManager:\n"
        f"    def get_all_specs(self):\n        return {{'conda-env-other-py': {{'spec': {spec!r}}}}}\n"
    )
    code = "import json; from gan_tutorial.tools import doctor; print(json.dumps(sorted(doctor.kernel_specs())))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "JUPYTER_PATH": str(tmp_path)}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
    assert {"conda-env-other-py", "python3"} <= set(json.loads(output))


def test_a_kernel_of_another_language_is_left_out():
    specs = {"ir": {**kernel("R"), "language": "R"}, "python3": kernel(sys.executable)}
    assert only(doctor.check_kernels(specs)).found == "python3 of this environment"


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
    assert doctor.judge_openmp("OpenMP", map(Path, files)).status == status


def test_the_openmp_runtimes_are_named_with_who_brought_them():
    files = [SITE + "torch/lib/libgomp.so.1", SITE + "scikit_learn.libs/libgomp-e985bcbb.so.1.0.0"]
    found = doctor.judge_openmp("OpenMP", map(Path, files)).found
    assert found == "libgomp of scikit_learn.libs, libgomp of torch; they get along"


def environment_with_openmp(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return str(folder), str(folder / "lib/python3.12/site-packages")


def test_an_openmp_runtime_of_conda_beside_one_of_pip_is_found_on_disk(tmp_path):
    packages = "lib/python3.12/site-packages"
    folders = environment_with_openmp(tmp_path, "lib/libomp.dylib", f"{packages}/torch/lib/libiomp5.dylib")
    assert only(doctor.check_openmp_files(*folders)).status == "WARN"


@pytest.mark.skipif(os.name == "nt", reason="links need special rights on Windows")
def test_two_names_of_one_openmp_runtime_are_one(tmp_path):
    folders = environment_with_openmp(tmp_path, "lib/libomp.so")
    (tmp_path / "lib/libiomp5.so").symlink_to(tmp_path / "lib/libomp.so")
    line = only(doctor.check_openmp_files(*folders))
    assert (line.status, line.found) == ("OK", f"libomp of {tmp_path.resolve() / 'lib/libomp.so'}")


def test_too_little_memory_is_warned_about():
    assert only(doctor.check_memory(available=5e8)).status == "WARN"
    assert only(doctor.check_memory(available=5e9)).found == "5.0 GB available"


def test_every_device_here_computes_rightly():
    assert set(statuses(doctor.check_devices()).values()) == {"OK"}


def test_a_device_that_computes_wrongly_fails():
    line = next(doctor.check_devices(lambda device: [[7.0, 10.0], [15.0, 22.5]]))
    assert (line.status, line.name) == ("FAIL", "device cpu")
    assert "22.5" in line.found


def test_a_device_that_raises_fails_with_its_first_line():
    def broken(device):
        raise RuntimeError("no kernel image\nmany more lines")

    line = next(doctor.check_devices(broken))
    assert (line.status, line.found) == ("FAIL", "a small matrix product gave no kernel image")


def test_without_mnist_the_sample_is_named_and_the_cure(tmp_path, monkeypatch):
    monkeypatch.delenv("GAN_TUTORIAL_DATA", raising=False)
    monkeypatch.setenv("GAN_TUTORIAL_CACHE", str(tmp_path))
    line = only(doctor.check_data())
    assert (line.status, "sample" in line.found, "data --fetch" in line.advice) == ("WARN", True, True)
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_without_data_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_TUTORIAL_DATA", str(tmp_path / "nothing"))
    line = only(doctor.check_data())
    assert (line.status, "GAN_TUTORIAL_DATA" in line.advice) == ("FAIL", True)


def test_a_full_disk_is_warned_about(tmp_path):
    assert only(doctor.check_disk(tmp_path, free=1e6)).status == "WARN"


def test_a_cache_folder_not_yet_made_is_fine(tmp_path):
    line = only(doctor.check_disk(tmp_path / "not" / "yet", free=1e9))
    assert (line.status, line.found[:11]) == ("OK", "1.0 GB free")
    assert not (tmp_path / "not").exists()


@pytest.fixture
def child_with(tmp_path, monkeypatch):
    """Return a function that runs the child's steps with a stand-in for a package, given as its source."""
    monkeypatch.chdir(tmp_path)  # a core dump would land here

    def run(package, source, timeout=60):
        (tmp_path / "path" / package).mkdir(parents=True)
        (tmp_path / "path" / package / "__init__.py").write_text(source)
        paths = {"PYTHONPATH": str(tmp_path / "path"), "GAN_TUTORIAL_CACHE": str(tmp_path)}
        environment = {name: value for name, value in os.environ.items() if name != "GAN_TUTORIAL_DATA"} | paths
        return list(doctor.check_in_child(timeout, environment))

    return run


def test_a_crash_while_importing_pytorch_is_reported_not_suffered(child_with):
    crash, skipped = child_with("torch", "import os; os.abort()")
    assert (crash.status, crash.name) == ("FAIL", "PyTorch")
    assert ("SIGABRT" if os.name == "posix" else "exit code") in crash.found
    assert (skipped.status, skipped.found) == ("WARN", "devices, data, disk, OpenMP in use")


def test_what_openmp_says_before_it_aborts_is_shown(child_with):
    source = (
        "import os, sys\nprint('OMP: Error #15: found another', 'OMP: Hint', sep='\\n', file=sys.stderr, flush=True)"
    )
    assert "OMP: Error #15: found another" in child_with("torch", f"{source}\nos.abort()")[0].found


def test_an_import_that_never_ends_is_cut_off(child_with):
    line = child_with("torch", "import time; time.sleep(60)", timeout=1)[0]
    assert (line.status, line.name, line.found) == ("FAIL", "PyTorch", "no answer within 1 s")


def test_an_import_error_is_quoted(child_with):
    line = child_with("torch", "raise ImportError('a library is missing')")[0]
    assert line.found == "exit code 1: ImportError: a library is missing"


def test_a_crash_of_two_openmp_runtimes_leaves_the_other_results(child_with):
    lines = child_with("sklearn", "import os; print('noise'); os.abort()")
    expected = {"PyTorch": "OK", "device cpu": "OK", "data": "WARN", "disk": "OK", "OpenMP in use": "FAIL"}
    assert expected.items() <= statuses(lines).items()
    assert "not checked" not in statuses(lines)


def test_this_environment_passes_in_the_child():
    assert "FAIL" not in statuses(doctor.check_in_child()).values()


def fine():
    yield Check("OK", "colour", "blue")


def doubtful():
    yield Check("WARN", "weather", "rain", "Take an umbrella.")


def bad():
    yield Check("FAIL", "roof", "a hole", "Mend it.")


@pytest.mark.parametrize(
    ("checks", "code", "status"),
    [([fine], 0, "OK"), ([doubtful, fine], 0, "WARN"), ([bad, doubtful, fine], 1, "FAIL")],
)
def test_the_exit_code_is_1_only_on_failure_and_the_json_is_valid(checks, code, status, capsys):
    assert doctor.main(as_json=True, checks=checks) == code
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == status
    assert report["checks"][-1] == {"status": "OK", "name": "colour", "found": "blue", "advice": ""}


def test_each_line_says_its_status_and_below_it_what_to_do(capsys):
    doctor.main(checks=[fine, doubtful])
    assert capsys.readouterr().out == "[OK]   colour: blue\n[WARN] weather: rain\n       -> Take an umbrella.\n"


def test_a_check_that_breaks_is_reported_and_the_rest_still_run(capsys):
    def check_broken():
        raise ModuleNotFoundError("No module named 'psutil'")

    assert doctor.main(as_json=True, checks=[check_broken, fine]) == 1
    first, second = json.loads(capsys.readouterr().out)["checks"]
    assert (first["name"], first["found"]) == ("broken", "ModuleNotFoundError: No module named 'psutil'")
    assert second["status"] == "OK"


def test_importing_the_doctor_does_not_import_pytorch():
    code = "import sys, gan_tutorial.tools.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
