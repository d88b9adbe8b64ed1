"""What Python, IPython and editors show of the package is as good as Dask's."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys

import distributed
import pytest

import daskref
from daskref import Proxy

PUBLIC = sorted(set(daskref.__all__) - {"__version__"})


def shown(obj: object) -> str:
    """Return what ``help`` prints."""
    return pydoc.plain(pydoc.render_doc(obj))


def test_help_of_the_package_shows_all_that_is_public():
    text = shown(daskref)
    for name in PUBLIC:
        if name != "connectors":  # a module: among the contents of the package
            assert f" {name}(" in text or f"class {name}" in text, name
    assert "connectors (package)" in text


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_described(name):
    obj = getattr(daskref, name)
    assert name in shown(obj)
    assert inspect.getdoc(obj)
    assert inspect.getsource(obj)
    if inspect.isroutine(obj) or inspect.isclass(obj):
        inspect.signature(obj)


def test_help_of_proxies_is_that_of_the_class_and_of_the_target():
    assert "Stand for an object" in shown(Proxy)
    proxy = Proxy(lambda: {"a": 1})
    assert len(proxy) == 1
    assert inspect.getdoc(proxy) == inspect.getdoc({})
    assert dir(proxy) == dir({})
    assert shown(proxy)


def test_a_client_has_all_parameters_and_completions_of_dasks():
    theirs = inspect.signature(distributed.Client).parameters
    ours = inspect.signature(daskref.Client).parameters
    assert [name for name in ours if name in theirs] == list(theirs)
    assert [name for name in ours if name not in theirs] == ["threshold", "connector"]
    assert set(dir(distributed.Client)) <= set(dir(daskref.Client))


@pytest.mark.parametrize(
    "name", [n for n, _ in inspect.getmembers(distributed.Client) if n[0] != "_"]
)
def test_a_method_has_the_signature_and_description_of_dasks(name):
    theirs = getattr(distributed.Client, name)
    ours = getattr(daskref.Client, name)
    if callable(theirs):
        assert inspect.signature(ours) == inspect.signature(theirs)
    doc = inspect.getdoc(ours) or ""
    for line in (inspect.getdoc(theirs) or "").splitlines():
        assert line in doc
    if inspect.isfunction(ours) and ours is not theirs:
        assert "def " + name in inspect.getsource(ours)


def test_names_complete_before_anything_is_imported():
    code = (
        "import sys, daskref; print(dir(daskref) == daskref.__all__, "
        "'distributed' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
