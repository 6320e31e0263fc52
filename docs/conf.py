"""The site: `make docs` builds it into build/docs. Pages are Markdown (MyST), the reference comes from docstrings."""

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent / "_extensions")]

project = "streams"
author = copyright = "the authors of streams"
version = release = installed("streams")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "docstrings",  # the ones in _extensions: how docstrings are written here
    "command_line",  # the help of every command
    "pictures",  # SVG that follows the theme
]
exclude_patterns = ["_extensions", "pictures"]
nitpicky = False  # types of libraries without an inventory at hand would all be broken references

smartquotes = False  # options are written with two hyphens

html_theme = "furo"
html_title = "streams"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3  # links such as guarantees.md#how

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
add_module_names = False


def _listed(app: Any, page: str, source: list[str]) -> None:
    """The index may list pages that are not written yet; one that it does not list is an error."""
    if page == "index":
        here = Path(app.srcdir)
        source[0] = re.sub(
            r"^([a-z]+)\n", lambda m: m[0] if (here / f"{m[1]}.md").exists() else "", source[0], flags=re.MULTILINE
        )


def setup(app: Any) -> None:
    app.connect("source-read", _listed)
