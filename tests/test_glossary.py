"""``docs/glossary.md`` names the place where each term is explained, and no notebook uses a term before that."""

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[01]*.ipynb"))
ROW = re.compile(
    r"\| (?P<term>[^|]+) \| (?P<forms>[^|]*) \| (?P<meaning>[^|]+) \| \[(?P<stem>\w+)\]\([^)]*\), (?P<heading>[^|]+) \|"
)


class Term(NamedTuple):
    forms: list[str]
    meaning: str
    stem: str
    heading: str


class Cell(NamedTuple):
    stem: str
    heading: str  # of the section that the cell belongs to, or that it begins last
    source: str


def read_glossary():
    rows = [
        match
        for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
        if (match := ROW.fullmatch(line))
    ]
    return {
        row["term"]: Term(
            [row["term"], *filter(None, row["forms"].split(", "))], row["meaning"], row["stem"], row["heading"]
        )
        for row in rows
    }


def read_cells():
    """Return the Markdown of 00 to 12 in reading order, cut at headings."""
    parts = []
    for path in NOTEBOOKS:
        heading = ""
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "markdown":
                continue
            for part in re.split(r"^(?=#)", cell.source, flags=re.MULTILINE):
                if title := re.match(r"#+ (.*)", part):
                    heading = title[1].strip()
                parts.append(Cell(path.stem, heading, part))
    return parts


def prose(source):
    """Return the text without titles, code, formulas and links."""
    source = re.sub(r"```.*?```|\$\$.*?\$\$", " ", source, flags=re.DOTALL)
    return re.sub(r"^#.*$|`[^`]*`|\$[^$]*\$|\[[^]]*\]\([^)]*\)", " ", source, flags=re.MULTILINE)


def uses(term, source):
    """Return the first form of the term that stands in a text, or None."""
    forms = "|".join(re.escape(form).replace(r"\ ", r"\s+") for form in sorted(term.forms, key=len, reverse=True))
    found = re.search(rf"(?<![\w-])(?:{forms})(?![\w-])", prose(source), flags=re.IGNORECASE)
    return found and found[0]


def introduced(term, cells):
    """Return the index of the part that holds the term in bold, in the place that the glossary names."""
    bold = [re.compile(rf"\*\*[^*]*(?<!\w){re.escape(form)}(?!\w)[^*]*\*\*", re.IGNORECASE) for form in term.forms]
    for k, cell in enumerate(cells):
        if (cell.stem, cell.heading) == (term.stem, term.heading) and any(
            b.search(" ".join(cell.source.split())) for b in bold
        ):
            return k
    return None


def used_too_early(term, cells):
    """Return (notebook, heading) of each use before the term is introduced; goals and prerequisites may name it."""
    end = introduced(term, cells)
    before = [c for c in cells[:end] if c.heading != "In this notebook" and uses(term, c.source)]
    return [(c.stem, c.heading) for c in before]


GLOSSARY, CELLS = read_glossary(), read_cells()


@pytest.mark.parametrize("name", GLOSSARY)
def test_a_term_stands_in_bold_where_the_glossary_says(name):
    assert introduced(GLOSSARY[name], CELLS) is not None


@pytest.mark.parametrize("name", GLOSSARY)
def test_no_term_is_used_before_it_is_introduced(name):
    assert used_too_early(GLOSSARY[name], CELLS) == []


def test_each_meaning_is_one_sentence():
    assert [name for name, term in GLOSSARY.items() if not re.fullmatch(r"[A-Z0-9].*\.", term.meaning)] == []


def test_every_row_of_the_table_is_read():
    lines = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) - 2 == len(GLOSSARY)  # the header and the line under it


NEEDED = """layer, weight, epoch, batch, leaf, hidden, stochastic, outer product, fully connected, neuron,
logistic function, CUDA, SGD, validation, one-hot, broadcasting, dtype, gradient, loss, learning rate, activation
function, saturated, dead unit, normalization, momentum, confidence interval, McNemar's test, confusion matrix,
cross-entropy, softmax"""


def test_the_glossary_holds_the_words_that_readers_stumbled_over():
    forms = {form.lower() for term in GLOSSARY.values() for form in term.forms}
    assert {" ".join(word.split()).lower() for word in NEEDED.split(",")} - forms == set()


def test_a_term_used_too_early_is_found():
    term = Term(["leaf", "leaves"], "A tensor.", "01", "Gradients")
    early, goal = Cell("00", "Tensors", "All leaves and `leaf`."), Cell("01", "In this notebook", "what a leaf is")
    place = Cell("01", "Gradients", "## Gradients of a leaf\n\nA **leaf** is a tensor.")
    assert used_too_early(term, [early, goal, place]) == [("00", "Tensors")]
    assert used_too_early(term, [goal, place, early]) == []
    assert introduced(term, [goal, place._replace(heading="Other")]) is None
    assert not uses(term, "A cloverleaf, a `leaf`, $leaf$ and [a leaf](x).\n# A leaf")
