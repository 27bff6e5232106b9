"""Sphinx settings: MyST pages, Google docstrings, the furo theme.

Neither the build nor a reader needs a network: formulas.py draws the formulas.
"""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import jaxseg

sys.path.insert(0, str(Path(__file__).parent))

project = "jaxseg"
copyright = "the jaxseg developers"
release = version = jaxseg.__version__
html_title = f"jaxseg {release}"

extensions = ["formulas", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_math_renderer = "svg"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
pygments_style = "friendly"

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_mock_imports = ["clu", "flax", "keras"]  # of the adapters, which need not be installed
autodoc_typehints = "none"  # the docstrings state shapes and dtypes, which ArrayLike does not
autodoc_preserve_defaults = True
add_module_names = True
toc_object_entries_show_parents = "hide"

napoleon_numpy_docstring = False
napoleon_use_param = False  # one list, in which "smooth, eps: as in dice" may name two arguments
napoleon_use_rtype = False


def mend_for_napoleon(*event: Any) -> None:
    """Returns has no type before a colon, and an author's initial begins no numbered list."""
    lines = event[-1]
    if "Returns:" in lines:
        first = lines.index("Returns:") + 1
        lines[first] = re.sub(r"^(\s*)", r"\1: ", lines[first])
    lines[:] = [re.sub(r"^(\s*)([A-Z]\. )", r"\1\\\2", line) for line in lines]


def drop_blank_line_after_doctest(_app: Sphinx, _page: str, source: list[str]) -> None:
    """The blank line that ends a doctest before its fence is not for the reader."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", mend_for_napoleon, priority=400)  # before napoleon
    app.connect("source-read", drop_blank_line_after_doctest)
