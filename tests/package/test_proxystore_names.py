"""A program of ProxyStore's finds what it imports under daskref's name."""

from __future__ import annotations

import pickle
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import pytest

import daskref
from daskref import exceptions
from tests.support.pages import ROOT
from tests.support.requirements import require_module

#: Modules of ProxyStore's that programs import from.
MODULES = """
    connectors connectors.file connectors.local connectors.multi connectors.protocols
    connectors.redis factory proxy serialize store store.base store.config
    store.exceptions store.factory store.future store.lifetimes store.metrics store.ref
    store.types store.utils
""".split()
#: What is nowhere, and is on the page instead.
ABSENT = {
    "connectors.multi": {"PolicyDict"},
    "store.factory": {"PollingStoreFactory"},
    "store.ref": {"BaseRefProxy"},
}
PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")


def published(module: Any) -> set[str]:
    """Return the names that a module of ProxyStore's has for programs."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ParamSpec | TypeVar)
        and getattr(value, "__module__", "") == module.__name__
    } | set(getattr(module, "__all__", ()))


@pytest.mark.parametrize("name", MODULES)
def test_every_name_is_there(name: str) -> None:
    theirs = require_module(f"proxystore.{name}")
    ours = import_module(f"daskref.{name}")
    missing = {each for each in published(theirs) if not hasattr(ours, each)}
    assert missing <= ABSENT.get(name, set())


@pytest.mark.parametrize(
    "name", sorted({name for names in ABSENT.values() for name in names})
)
def test_what_is_nowhere_is_on_the_page(name: str) -> None:
    assert f"{name}`" in PAGE


def test_names_are_those_of_the_same_objects() -> None:
    assert import_module("daskref.store.base").Store is daskref.Store
    assert import_module("daskref.store.ref").borrow is daskref.borrow
    assert import_module("daskref.store.config").StoreConfig is daskref.StoreConfig
    assert daskref.store.exceptions.StoreExistsError is exceptions.StoreExistsError
    assert daskref.connectors.protocols.Connector is daskref.connectors.Connector
    assert issubclass(daskref.proxy.ProxyResolveError, exceptions.ResolveError)


def test_factories() -> None:
    factory = import_module("daskref.factory")
    for made in (
        factory.SimpleFactory([1, 2]),
        factory.LambdaFactory(sorted, [1, 2], reverse=True),
    ):
        proxy = pickle.loads(pickle.dumps(daskref.Proxy(made)))
        assert isinstance(daskref.get_factory(proxy), factory.Factory)
        assert sum(proxy) == 3
    with pytest.raises(NotImplementedError):
        factory.Factory()()


def test_serialization() -> None:
    serialize = import_module("daskref.serialize")
    for obj in (b"bytes", "text", [1, {"a": 2}], len):
        data = serialize.serialize(obj)
        assert type(data) is bytes
        assert serialize.is_bytes_like(data)
        assert serialize.deserialize(data) == obj
    with pytest.raises(serialize.SerializationError):
        serialize.deserialize(b"something else")
    with pytest.raises(serialize.SerializationError):
        serialize.serialize(x for x in "ab")
    with pytest.raises(ValueError, match="takes bytes, not str"):
        serialize.deserialize("text")


def test_stores_can_be_subscripted_in_annotations() -> None:
    assert daskref.Store[daskref.connectors.FileConnector]
