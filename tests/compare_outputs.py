"""Compare the notebooks that a full run has executed with the committed ones: python tests/compare_outputs.py FOLDER.

Cells are matched by id, figures by name and alternative text. Of a text, words and whole numbers have to be equal, and
decimals may differ by one unit of the last printed digit; a table's column "seconds" is left out. A cell's tag may
allow more: `rtol=0.05` five percent, `varies` any numbers (timings), `machine` anything (versions, devices).
"""

import re
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d*)?(?:e[-+]?\d+)?(?![\w])")


def texts(cell: NotebookNode) -> list[tuple[str, str]]:
    """Return (kind, text) of everything a cell shows as text; a figure's text is its name and alternative text."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append((output.name, output.text))
        elif output.output_type == "error":
            found.append(("error", output.ename))
        elif "<tr" in output.data.get("text/html", ""):
            found.append(("table", without_seconds(output.data["text/html"])))
        else:
            kinds = [
                kind for kind in sorted(output.data) if kind.startswith("text/") and "<img" not in output.data[kind]
            ]
            found += [(kind, output.data[kind]) for kind in kinds]
    return found


def without_seconds(table: str) -> str:
    """Return the cells of an HTML table, row by row, but for the column "seconds"."""
    rows = [
        re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall("<tr.*?</tr>", table, re.DOTALL)
    ]
    timings = [place for place, name in enumerate(rows[0]) if name == "seconds"]
    return "\n".join("  ".join(cell for place, cell in enumerate(row) if place not in timings) for row in rows)


def words(text: str) -> list[str]:
    """Return a text without its numbers, cut at white space."""
    return NUMBER.sub("#", text).split()


def unit(number: str) -> float:
    """Return one unit of the last printed digit of a decimal number, 0 for a whole number."""
    mantissa, _, exponent = number.lower().partition("e")
    places = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - places) if places or exponent else 0.0


def is_close(committed: str, found: str, rtol: float) -> bool:
    """Tell whether two printed numbers are as close as the rules demand."""
    a, b = (float(number.replace(",", "")) for number in (committed, found))
    return abs(a - b) <= max(1.0001 * max(unit(committed), unit(found)), rtol * max(abs(a), abs(b)))


def same_text(committed: str, found: str, tags: list[str]) -> bool:
    """Tell whether two texts agree, by the rules and what ``tags`` allow; how they are padded does not count."""
    if "machine" in tags:
        return True
    if words(committed) != words(found):
        return False
    rtol = next((float(tag.removeprefix("rtol=")) for tag in tags if tag.startswith("rtol=")), 0.0)
    pairs = zip(NUMBER.findall(committed), NUMBER.findall(found), strict=True)
    return "varies" in tags or all(is_close(a, b, rtol) for a, b in pairs)


def differences(committed: NotebookNode, executed: NotebookNode) -> Iterator[str]:
    """Yield a line for each text that differs, is missing or is new."""
    cells, others = (
        {c.id: c for c in notebook.cells if c.cell_type == "code" and c.id != "injected-parameters"}
        for notebook in (committed, executed)
    )
    yield from (f"cell {name} is in one of the two only" for name in sorted(cells.keys() ^ others.keys()))
    for name in (name for name in cells if name in others):
        tags = cells[name].metadata.get("tags", [])
        pairs = zip_longest(texts(cells[name]), texts(others[name]), fillvalue=("nothing", ""))
        for (kind, text), (other_kind, other) in pairs:
            if kind != other_kind or not same_text(text, other, tags):
                yield f"cell {name}, {kind} committed:\n{text.strip()}\n{other_kind} found:\n{other.strip()}"


def main(folder: Path) -> int:
    """Compare all committed notebooks with those of the same name in ``folder``; return 1 if anything differs."""
    problems = 0
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        executed = folder / path.name
        committed = nbformat.read(path, as_version=4)
        found = (
            differences(committed, nbformat.read(executed, as_version=4)) if executed.is_file() else ["not executed"]
        )
        for problem in found:
            problems += 1
            print(f"{path.stem}: {problem}\n")
    print(f"{problems} differences between {folder} and the committed notebooks.")
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
