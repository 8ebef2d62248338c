"""What is to run: notebooks chosen by name, with parameters that fit what they declare."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


class RunError(Exception):
    """The run cannot start as asked: what was wrong, and what there is to choose from."""


@dataclass
class Task:
    """One notebook to run, and what has become of it."""

    notebook: Path
    parameters: dict[str, Any]
    seed: int | None = None  # what the notebook's own parameter `seed` is in this run
    seconds: float = 0.0
    cell: str = ""  # the id of the cell that was started last
    problem: str = ""  # why it failed; empty if it did not
    results: list[str] = field(default_factory=list)  # what its networks came to, in words

    @property
    def name(self) -> str:
        """The notebook's name without its ending, e.g. ``03_baseline_ann``."""
        return self.notebook.stem


@dataclass(frozen=True)
class Settings:
    """What all notebooks of a run have in common."""

    output: Path
    profile: str
    data_source: str
    device: str
    jobs: int
    timeout: int  # seconds a cell may take

    @property
    def data_name(self) -> str:
        """The name of the data set behind the source, as `MnistDataset.name` has it."""
        return "MNIST sample" if self.data_source == "sample" else "MNIST"


def choose_notebooks(names: Iterable[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks called ``names`` (``03``, ``03_baseline_ann`` or a path), or all of them if none is named.

    Raises:
        RunError: a name fits no notebook of ``folder``, or there is none in it; says which there are.
    """
    everything = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not everything:
        raise RunError(f"There is no notebook in {folder}: none is named like 03_baseline_ann.ipynb.")
    chosen = set()
    for name in names:
        fitting = [path for path in everything if is_called(path, Path(name))]
        if not fitting:
            stems = ", ".join(path.stem for path in everything)
            raise RunError(f"There is no notebook {name!r} in {folder.name}. Choose from: {stems}.")
        chosen.update(fitting)
    return [path for path in everything if path in chosen or not chosen]


def is_called(notebook: Path, name: Path) -> bool:
    """Tell whether ``name`` means this notebook: its number, its name, or, with a folder in it, its path."""
    if name.parent != Path():
        return name.resolve() == notebook.resolve()
    return name.name in (notebook.stem.split("_")[0], notebook.stem, notebook.name)


def parse_value(name: str, text: str, kind: str) -> int | float | bool | str:
    """Return ``text`` as the type that the notebook's parameter cell declares for ``name``."""
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return {"int": int, "float": float, "str": str}[kind](text)
    except (KeyError, ValueError):
        raise RunError(f"The parameter {name} is of type {kind}; {text!r} is not.") from None


def make_tasks(notebooks: list[Path], given: dict[str, str], common: dict[str, Any]) -> list[Task]:
    """Return a task for each notebook, with the parameters that it declares.

    Args:
        notebooks: what to run.
        given: parameters by name, as text; each has to be declared by one of the notebooks at least.
        common: parameters that the run itself sets where they are declared.

    Raises:
        RunError: a name that no notebook declares, or a value of another type than declared.
    """
    from papermill import inspect_notebook

    declared = {path: inspect_notebook(str(path)) for path in notebooks}
    known = sorted({name for parameters in declared.values() for name in parameters})
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            where = notebooks[0].stem if len(notebooks) == 1 else "the notebooks chosen"
            raise RunError(f"There is no parameter {name!r} in {where}.{hint} Known: {', '.join(known) or 'none'}.")
    tasks = []
    for path, parameters in declared.items():
        values = {name: value for name, value in common.items() if name in parameters}
        for name in parameters.keys() & given.keys():
            values[name] = parse_value(name, given[name], parameters[name]["inferred_type_name"])
        tasks.append(Task(path, values, seed=effective_seed(parameters, values)))
    return tasks


def effective_seed(declared: dict[str, Any], given: dict[str, Any]) -> int | None:
    """Return the seed a notebook runs with: the one given, else its own; None if it has no parameter ``seed``."""
    if "seed" not in declared:
        return None
    return given["seed"] if "seed" in given else int(parse_value("seed", declared["seed"]["default"], "int"))
