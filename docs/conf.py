"""The documentation as a site: `make docs` builds it into docs/_build/html. The pages read as plain Markdown, too."""

from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

project = "logitfuse"
author = "the logitfuse authors"
release = version = version_of("logitfuse")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "results.words.md"]
myst_heading_anchors = 4  # links to headings, as on the pages of a forge
suppress_warnings = ["myst.header"]  # pages may begin with a level of their own

# Pages of the repository's root are included here under a name of their own.
HERE = {"../README.md": "index.md", "../SECURITY.md": "security.md", "../CONTRIBUTING.md": "contributing.md"}


def with_links_to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Let links to files of the repository's root lead to this site's pages of them."""
    for file, page in HERE.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")


def with_links_from_root(app: Sphinx, path: Path, parent: str, source: list[str]) -> None:
    """Let links of an included page of the root, which begin with docs/, lead to this site's pages."""
    source[0] = source[0].replace("](docs/", "](").replace("](CONTRIBUTING.md", "](contributing.md")


def setup(app: Sphinx) -> None:
    """Connect the above."""
    app.connect("source-read", with_links_to_pages)
    app.connect("include-read", with_links_from_root)


autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = "logitfuse"
html_copy_source = False
html_show_sourcelink = False
pygments_style, pygments_dark_style = "friendly", "monokai"
