"""What is to run: notebooks chosen by name, with parameters that fit what they declare."""

import ast
import difflib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from gan_tutorial.data import MNIST
from gan_tutorial.tools import checkout

_TYPES: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
}


class RunError(Exception):
    """The run cannot start as asked: what was wrong, and what there is to choose from."""


@dataclass
class Task:
    """One notebook to run, and what has become of it."""

    notebook: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    problem: str = ""  # why it failed; empty if it did not
    results: list[str] = field(default_factory=list)  # what its networks came to, in words

    @property
    def name(self) -> str:
        """The notebook's name without its ending, e.g. ``03_baseline_ann``, in any locale text that UTF-8 can hold."""
        return os.fsencode(self.notebook.stem).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Settings:
    """What all notebooks of a run have in common."""

    output: Path
    profile: str
    data_name: str  # as `MnistDataset.name` has it
    device: str
    jobs: int
    timeout: int  # seconds a cell may take
    changed: tuple[str, ...] = ()  # names of the parameters given with -p

    @property
    def comparable(self) -> bool:
        """Whether results have to be what is recorded: a full run on all of MNIST with the notebooks' parameters."""
        return (self.profile, self.data_name, self.changed) == ("full", MNIST, ())


def choose_notebooks(names: Iterable[str], folder: Path | None = None) -> list[Path]:
    """Return the notebooks called ``names`` (``03``, ``03_baseline_ann`` or a path), or all of them if none is named.

    Raises:
        RunError: neither ``folder`` nor a checkout; a name that fits no notebook there, or no notebook at all.
    """
    if folder is None:
        if not (root := checkout()):
            raise RunError(
                "The notebooks are no part of the package: name their folder, which comes with the course's "
                "repository, with --notebooks."
            )
        folder = root / "notebooks"
    everything = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not everything:
        raise RunError(f"There is no notebook in {folder}: none is named like 03_baseline_ann.ipynb.")
    known = {path: {path.stem[:2], path.stem, path.name, str(path.resolve())} for path in everything}
    chosen = set()
    for name in names:
        fitting = [path for path in everything if {name, str(Path(name).resolve())} & known[path]]
        if not fitting:
            stems = ", ".join(path.stem for path in everything)
            raise RunError(f"There is no notebook {name!r} in {folder.name}. Choose from: {stems}.")
        chosen.update(fitting)
    return [path for path in everything if path in chosen or not chosen]


def declared_parameters(notebook: Path) -> dict[str, tuple[str, str]]:
    """Return (type, default) of each parameter that the cell tagged ``parameters`` declares, as source code.

    Without an annotation the type is that of the default: "int" of ``seed = 7``, and "Call" of ``seed = f(7)``.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    found = {}
    for line in ast.parse("\n".join(sources)).body:
        if isinstance(line, ast.AnnAssign) and line.value:
            found[ast.unparse(line.target)] = (ast.unparse(line.annotation), ast.unparse(line.value))
        elif isinstance(line, ast.Assign):
            kind = type(getattr(line.value, "value", line.value)).__name__
            found[ast.unparse(line.targets[0])] = (kind, ast.unparse(line.value))
    return found


def parse_value(name: str, text: str, kind: str) -> int | float | bool | str:
    """Return ``text`` as the type that the notebook's parameter cell declares for ``name``."""
    if kind not in _TYPES:
        raise RunError(
            f"The notebook does not say that its parameter {name} is one of: {', '.join(_TYPES)}. "
            f"Write `{name}: int = ...` there."
        )
    try:
        return _TYPES[kind](text)
    except (KeyError, ValueError):
        raise RunError(f"The parameter {name} is of type {kind}; {text!r} is not.") from None


def make_tasks(notebooks: list[Path], given: dict[str, str], common: dict[str, Any]) -> list[Task]:
    """Return a task for each notebook; one that cannot be read has a problem.

    Parameters that are ``given``, as text, have to be declared by one of the notebooks at least, or a RunError is
    raised. Those in ``common``, and the notebook's own seed, are set where they are declared.
    """
    tasks: list[Task] = []
    known: set[str] = set()
    for path in notebooks:
        try:
            declared = declared_parameters(path)
        except (OSError, ValueError, SyntaxError, AttributeError, nbformat.ValidationError) as problem:
            tasks.append(Task(path, problem=f"cannot be read as a notebook: {first_line(problem)}"))
            continue
        seed = declared.get("seed", ("", ""))[1]
        values: dict[str, Any] = {"seed": int(seed)} if seed.isdigit() else {}
        values |= {name: value for name, value in common.items() if name in declared}
        values |= {name: parse_value(name, given[name], declared[name][0]) for name in declared if name in given}
        tasks.append(Task(path, values))
        known.update(declared)
    if unknown := [name for name in given if name not in known]:
        where = notebooks[0].stem if len(notebooks) == 1 else "the notebooks chosen"
        choices = ", ".join(sorted(known)) or "none"
        raise RunError(
            f"There is no parameter {unknown[0]!r} in {where}.{suggest(unknown[0], known)} Known: {choices}."
        )
    return tasks


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" with the known name that is most like ``name``, or an empty string."""
    return "".join(f" Did you mean {close}?" for close in difflib.get_close_matches(name, known, n=1))


def first_line(problem: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(problem).__name__}: {problem}".splitlines()[0][:300]
