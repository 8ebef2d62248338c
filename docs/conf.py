"""The course as a web site: README.md and the notebooks as they are committed; nothing is run again."""

project = "gan_tutorial"
html_title = "gan_tutorial"
html_theme = "sphinx_book_theme"
extensions = ["myst_nb", "sphinx_external_toc"]
external_toc_path = "docs/toc.yml"
include_patterns = ["README.md", "docs/glossary.md", "notebooks/*.ipynb"]
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"
