"""Sphinx settings: MyST pages, Google docstrings, the furo theme; nothing is fetched."""

import jaxseg

project = "jaxseg"
copyright = "the jaxseg developers"
release = version = jaxseg.__version__
html_title = f"jaxseg {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
pygments_style = "friendly"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings state shapes and dtypes, which ArrayLike does not
autodoc_preserve_defaults = True
add_module_names = True
toc_object_entries_show_parents = "hide"

napoleon_numpy_docstring = False
napoleon_use_param = False  # one list, in which "smooth, eps: as in dice" may name two arguments
napoleon_use_rtype = False
