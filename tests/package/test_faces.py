"""A face says what is in its folder, and the tours lead through files that exist."""

from __future__ import annotations

import ast
import re

import pytest

from daskref.client import client
from tests.package.test_layers import MODULES, PACKAGE, PACKAGES

_NAMED = re.compile(r"``(\w+)``")
#: What is named beside modules: calls of users, and the serialization family.
_WORDS = {"daskref", "disable", "enable", "get", "put", "scatter", "tokenize"}


def _inside(package: str) -> set[str]:
    """Return the modules and folders directly in a package."""
    names = {name.rpartition(".") for name in MODULES}
    return {name for parent, _, name in names if parent == package} - {"__main__"}


def _face(package: str) -> str:
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or ""


@pytest.mark.parametrize("package", [name for name in PACKAGES if name])
def test_a_face_names_the_public_modules_of_its_folder(package):
    named = set(_NAMED.findall(_face(package)))
    public = {name for name in _inside(package) if not name.startswith("_")}
    assert public <= named


@pytest.mark.parametrize("package", [name for name in PACKAGES if name])
def test_a_face_names_no_module_that_is_gone(package):
    named = set(_NAMED.findall(_face(package)))
    private = {name for name in named if name.startswith("_")}
    assert private <= _inside(package)
    modules = {name.rpartition(".")[2] for name in MODULES}
    assert named - private <= modules | _WORDS


def test_the_tours_lead_through_files_and_functions_that_exist():
    tours = (client.__doc__ or "").partition("The way of a value")[2]
    steps = re.split(r"\n\d\. ", tours.partition("Private Dask names")[0])[1:]
    assert len(steps) >= 12
    for step in steps:
        paths = re.findall(r"``([\w/]+\.py)``", step)
        assert paths
        source = "".join((PACKAGE / path).read_text("utf-8") for path in paths)
        for name in re.findall(r"``(?:\w+\.)?(\w+)``", step):
            assert re.search(rf"\b{name}\b", source), f"{paths} has no {name}"
