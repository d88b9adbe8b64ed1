"""``daskref.__all__`` is what is visible, sorted."""

from __future__ import annotations

import ast
import re
import types
from pathlib import Path

import pytest

import daskref


def test_all_is_sorted_and_has_no_repeats():
    assert daskref.__all__ == sorted(set(daskref.__all__))


def test_all_can_be_had_and_nothing_else_is_visible():
    assert dir(daskref) == daskref.__all__
    for name in daskref.__all__:
        assert getattr(daskref, name) is not None
    # submodules become visible when anything imports them
    visible = {
        name
        for name, value in vars(daskref).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    ours = {"TYPE_CHECKING", "Any", "annotations", "import_module"}
    assert visible - ours <= set(daskref.__all__)


def test_what_type_checkers_see_is_what_there_is():
    source = Path(daskref.__file__).read_text(encoding="utf-8")
    seen = {
        alias.asname: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert seen == daskref._HOMES


def test_the_map_has_every_package_and_nothing_else():
    assert daskref.__doc__ is not None
    drawn = re.findall(r"\b(\w+)/", daskref.__doc__)
    packages = Path(daskref.__file__).parent.glob("*/__init__.py")
    assert sorted(drawn) == sorted(path.parent.name for path in packages)


def test_everything_exported_is_documented():
    names = set(daskref.__all__) - {"__version__"}
    assert not [name for name in names if not getattr(daskref, name).__doc__]


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'Clientt'"):
        daskref.Clientt  # noqa: B018
