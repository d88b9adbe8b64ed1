"""Sphinx configuration."""

from __future__ import annotations

import re
from pathlib import Path

_version = Path(__file__).parents[1] / "daskref" / "_version.py"

project = "daskref"
author = "daskref developers"
copyright = "2026, daskref developers"
release = re.findall(r'"([\d.]+\w*)"', _version.read_text(encoding="utf-8"))[0]

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
# README.md links to the same pages, so links are relative paths with .md
myst_heading_anchors = 3
nitpicky = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False

# What is linked to, in the first, plain version of the format: no network is needed.
intersphinx_mapping = {
    name: (url, f"_inventories/{name}.txt")
    for name, url in {
        "dask": "https://docs.dask.org/en/stable/",
        "distributed": "https://distributed.dask.org/en/stable/",
        "numpy": "https://numpy.org/doc/stable/",
        "pandas": "https://pandas.pydata.org/docs/",
        "python": "https://docs.python.org/3/",
    }.items()
}

html_theme = "furo"
html_title = f"daskref {release}"
html_static_path = ["_static"]
html_css_files = ["daskref.css"]
html_theme_options = {"navigation_with_keys": True}
