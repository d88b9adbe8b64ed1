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
]
exclude_patterns = ["_build"]
# README.md links to the same pages, so links are relative paths with .md
myst_heading_anchors = 3
nitpicky = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False

html_theme = "alabaster"
html_theme_options = {"description": "Pass-by-reference for Dask"}
