"""The layout of the package: which file imports which, how long it may be, and which names are private."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gan_tutorial"
TAUGHT = sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")
TOOLS = sorted((PACKAGE / "tools").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TO_BE_REWRITTEN = {"gan", "judging", "verdicts"}  # part two's files: free of the rules on length and underscores

# At most so many lines; fewer is better.
BUDGET = {
    "device": 40,
    "data": 140,
    "_sources": 230,
    "network": 80,
    "training": 110,
    "backprop": 180,
    "recipes": 170,
    "records": 200,
    "plots": 230,
}
# The design asks for 780 and 3,050 lines; these numbers may only fall.
TOOLS_BUDGET, PACKAGE_BUDGET, LONGEST_FUNCTION = 913, 3_228, 40

# Each file may import these, and what these may import.
BELOW = {
    "plots": [],
    "device": [],
    "_sources": [],
    "data": ["plots", "device", "_sources"],
    "network": ["data"],
    "backprop": ["network"],
    "training": ["backprop"],
    "gan": ["training"],
    "recipes": ["network", "gan"],
    "records": ["data"],
    "judging": ["data", "device"],
    "verdicts": ["data", "gan", "judging", "records"],
}


def allowed(name):
    """Return all files that a file of the package may import."""
    return {below for direct in BELOW[name] for below in {direct} | allowed(direct)}


def imported(path):
    """Return the modules of the package that a file imports, anywhere in it: "data", "tools.tasks", …"""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "gan_tutorial":
            found |= {f"gan_tutorial.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return {name.removeprefix("gan_tutorial.") for name in found if name.startswith("gan_tutorial.")}


def lines(path):
    return path.read_text(encoding="utf-8").count("\n")


def test_every_file_has_its_place():
    assert {path.stem for path in TAUGHT} == BELOW.keys()
    assert {path.stem for path in TAUGHT} - TO_BE_REWRITTEN == BUDGET.keys()
    assert [path for path in PACKAGE.rglob("*.py") if path.parent not in (PACKAGE, PACKAGE / "tools")] == []
    assert "".join((PACKAGE / "__init__.py").read_text(encoding="utf-8").split('"""')[2:]).strip() == ""


@pytest.mark.parametrize("path", TAUGHT, ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    assert imported(path) <= allowed(path.stem)


@pytest.mark.parametrize("name", BUDGET)
def test_a_file_keeps_to_its_budget(name):
    assert lines(PACKAGE / f"{name}.py") <= BUDGET[name]


def test_the_package_and_the_tools_keep_to_their_budgets():
    assert sum(map(lines, TOOLS)) <= TOOLS_BUDGET
    assert sum(map(lines, PACKAGE.rglob("*.py"))) <= PACKAGE_BUDGET
    assert lines(ROOT / "docs" / "refresh.py") <= 200


def ours():
    return [path for path in [*TAUGHT, *TOOLS, ROOT / "docs" / "refresh.py"] if path.stem not in TO_BE_REWRITTEN]


@pytest.mark.parametrize("path", ours(), ids=lambda path: path.stem)
def test_functions_are_short(path):
    functions = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno + 1 > LONGEST_FUNCTION}
    assert long == {}


def top_level_names(tree):
    """Return the functions, classes and constants that a file defines."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def words_elsewhere(path):
    """Return every word of the project's other code: modules, notebooks, tests, benchmarks, docs, console script."""
    files = [
        p for folder in (PACKAGE, ROOT / "tests", ROOT / "benchmarks", ROOT / "docs") for p in folder.rglob("*.py")
    ]
    texts = [p.read_text(encoding="utf-8") for p in files if p != path]
    for notebook in NOTEBOOKS:
        texts += [c.source for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    return set(re.findall(r"\w+", "\n".join([*texts, (ROOT / "pyproject.toml").read_text(encoding="utf-8")])))


def named_in_signatures(tree):
    """Return the words of the annotations of public functions and classes: who calls them meets these."""
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    functions = [f for node in public for f in ast.walk(node) if isinstance(f, ast.FunctionDef)]
    arguments = [a for f in functions for a in [*f.args.args, *f.args.kwonlyargs, f.args.vararg, f.args.kwarg] if a]
    annotations = [a.annotation for a in arguments] + [f.returns for f in functions]
    return set(re.findall(r"\w+", " ".join(ast.unparse(a) for a in annotations if a)))


@pytest.mark.parametrize("path", [p for p in ours() if p.parent.name != "docs"], ids=lambda path: path.stem)
def test_a_name_used_in_its_own_file_only_begins_with_an_underscore(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = {name for name in top_level_names(tree) if not name.startswith("_")}
    assert public - words_elsewhere(path) - named_in_signatures(tree) == set()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_import_taught_files_only(path):
    code = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    modules = re.findall(r"(?:from|import) gan_tutorial\.([\w.]+)", code)
    modules += re.findall(r"from gan_tutorial import (\w+)", code)
    assert [m for m in modules if m.startswith(("tools", "_")) or m not in BELOW] == []
