"""environment.yml (conda) and pyproject.toml (pip) name the same packages with the same lower bounds."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
CONDA_ONLY = {"python", "pip", "nb_conda_kernels"}
PIP_ONLY = {"prdc"}  # not on conda-forge; one test is skipped without it


def split(requirement):
    """Return ("name", "bound") of "name>=bound"."""
    return re.fullmatch(r"([\w.-]+?)(?:>=([\d.]+))?", requirement).groups()


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def required():
    """What is required of pip: the package's own requirements, and the extras that ``make`` installs."""
    extras = pyproject()["optional-dependencies"]
    return [*pyproject()["dependencies"], *extras["tools"], *extras["test"]]


def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def test_conda_and_pip_name_the_same_packages_and_bounds():
    wanted = dict(map(split, required()))
    wanted = {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items() if name not in PIP_ONLY}
    found = dict(split(r) for r in conda()["dependencies"])
    assert {name: bound for name, bound in found.items() if name not in CONDA_ONLY} == wanted


def test_every_package_has_a_lower_bound():
    assert [r for r in conda()["dependencies"] if ">=" not in r and r != "pip"] == []


def test_python_bound_is_the_same():
    assert dict(split(r) for r in conda()["dependencies"])["python"] == pyproject()["requires-python"].removeprefix(
        ">="
    )


def test_only_conda_forge_is_used():
    assert conda()["channels"] == ["conda-forge", "nodefaults"]


def test_constraints_pin_every_package_at_or_above_its_bound():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {n.lower().replace("_", "-"): v for n, v in (x.split("==") for x in lines if "==" in x)}
    for requirement in required():
        name, bound = split(requirement)
        pinned = tuple(int(part) for part in re.findall(r"\d+", pins[name.lower().replace("_", "-")]))
        assert pinned >= tuple(int(part) for part in bound.split(".")), requirement


def test_the_packages_asked_for_are_all_there():
    names = {split(r)[0] for r in conda()["dependencies"]}
    assert {
        "pytorch",
        "pandas",
        "matplotlib-base",
        "jupyter",
        "nb_conda_kernels",
        "papermill",
        "nbval",
    } <= names
