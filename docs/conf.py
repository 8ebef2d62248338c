"""The course as a web site: README.md and the notebooks as they are committed; nothing is run again."""

import json

from sphinx.application import Sphinx

project = "gan_tutorial"
html_title = "gan_tutorial"
html_theme = "sphinx_book_theme"
extensions = ["myst_nb", "sphinx_external_toc"]
external_toc_path = "docs/toc.yml"
include_patterns = ["README.md", "notebooks/*.ipynb"]
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"


def setup(app: Sphinx) -> None:
    """Have each notebook's figures keep their alternative text."""
    app.connect("source-read", keep_alternative_text)


def keep_alternative_text(app: Sphinx, name: str, source: list[str]) -> None:
    """Copy the alternative text from where `plots.show` leaves it to where the site generator looks for it."""
    if not name.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    source[0] = json.dumps(notebook)
