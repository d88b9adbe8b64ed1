"""Errors: they survive pickling and say what they were told."""

from __future__ import annotations

import pickle

import pytest

from daskref import exceptions
from daskref.exceptions import DaskrefError, WireError

ARGUMENTS = {
    "DaskrefError": ("something",),
    "ConfigError": ("daskref.threshold", "abc", "a size"),
    "ConnectorError": ("<shm>", "it is full"),
    "ConnectorClosedError": ("<shm>",),
    "ConnectorUnavailableError": ("<shm>", "no such directory"),
    "ObjectLostError": ("<zmq>", "it was on host one", True),
    "MissingKeyError": (("name", 3), "<shm>"),
    "LifetimeError": ("one", "nothing can be bound to it any more"),
    "NamespaceError": ("unshare: No such file or directory",),
    "NotStoredError": ("a lifetime", "function"),
    "OwnershipError": ("<OwnedProxy>", "it cannot be sent", "one owner"),
    "MutableBorrowError": ("<OwnedProxy>", "it is borrowed", "one mutable borrow"),
    "ReferenceInvalidError": ("<RefProxy>", "it was given back", "a borrow ends"),
    "ReferenceNotOwnedError": ("<RefProxy>", "it is borrowed", "only an owner lends"),
    "ResolveError": ("<Reference>", "it was evicted"),
    "NotInstalledError": (["the scheduler"],),
    "IncompatibleError": (
        "the scheduler",
        {"protocol": 2, "version": "0.2.0"},
        {"this client": {"protocol": 1, "version": "0.1.0"}},
    ),
    "NotDeferrableError": ("<shm>",),
    "ResolveTimeoutError": ("<Reference>", "not within 3 s"),
    "StoreExistsError": ("demo",),
    "NotProxiableError": ("_thread.lock", "it does not pickle"),
    "SerializationError": ("something",),
    "SignatureError": ("('name', 3)", "demo", "it is not signed"),
    "WireError": ("truncated",),
}
CLASSES = {
    name: cls
    for name, cls in vars(exceptions).items()
    if isinstance(cls, type) and issubclass(cls, DaskrefError)
}


def parts_of(argument):
    if isinstance(argument, dict):
        nested = {k: v for k, v in argument.items() if isinstance(v, dict)}
        inner = [part for value in argument.values() for part in parts_of(value)]
        return [*nested, *inner]
    return argument if isinstance(argument, list) else [argument]


def test_every_class_is_covered():
    assert ARGUMENTS.keys() == CLASSES.keys()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_round_trip(name):
    error = CLASSES[name](*ARGUMENTS[name])
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_text_holds_every_argument(name):
    text = str(CLASSES[name](*ARGUMENTS[name]))
    for argument in ARGUMENTS[name]:
        for part in parts_of(argument):
            assert isinstance(part, bool) or str(part) in text


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("ConfigError", ValueError),
        ("MissingKeyError", LookupError),
        ("LifetimeError", RuntimeError),
        ("OwnershipError", RuntimeError),
        ("ResolveError", RuntimeError),
        ("ResolveTimeoutError", TimeoutError),
        ("NotDeferrableError", NotImplementedError),
        ("NotStoredError", TypeError),
        ("StoreExistsError", ValueError),
        ("NotInstalledError", ImportError),
        ("IncompatibleError", ImportError),
        ("NotProxiableError", TypeError),
        ("SignatureError", ValueError),
        ("WireError", ValueError),
    ],
)
def test_caught_as_python_would_expect(name, base):
    assert issubclass(CLASSES[name], base)


def test_the_tree_is_drawn():
    assert exceptions.__doc__ is not None
    for name in CLASSES:
        assert name in exceptions.__doc__


def test_a_users_subclass_may_have_more() -> None:
    class Theirs(WireError):
        def __init__(self, reason: str, *, code: int = 0) -> None:
            self.code = code
            super().__init__(reason)

    assert str(Theirs("torn", code=3)) == "torn"
