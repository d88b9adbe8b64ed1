"""The libraries that the page on transparency compares, each at its best."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from daskref.proxy import Proxy, extract, is_proxy


class Library(NamedTuple):
    """How to make an unresolved proxy that knows as much as the library lets it."""

    #: As on the package index.
    name: str
    #: ``(factory) -> proxy``; ``factory.value`` is what it will return.
    make: Callable[[Any], Any]
    #: ``(factory) -> proxy`` of which nothing is known.
    bare: Callable[[Any], Any]

    @property
    def version(self) -> str | None:
        """The installed version."""
        try:
            return version(self.name)
        except PackageNotFoundError:
            return None


def _proxystore_class() -> Any:
    return importlib.import_module("proxystore.proxy").Proxy


def _proxystore(factory: Any) -> Any:
    p = _proxystore_class()(factory, cache_defaults=True, target=factory.value)
    if factory.value is not None:  # or there is no target
        del p.__proxy_wrapped__  # type and hash stay known
    return p


def _wrapt(factory: Any) -> Any:
    wrapt = importlib.import_module("wrapt")
    return wrapt.LazyObjectProxy(factory, interface=type(factory.value))


LIBRARIES = {
    library.name: library
    for library in (
        Library("proxystore", _proxystore, lambda f: _proxystore_class()(f)),
        Library(
            "wrapt",
            _wrapt,
            lambda f: importlib.import_module("wrapt").LazyObjectProxy(f),
        ),
        Library(
            "lazy-object-proxy",
            lambda f: importlib.import_module("lazy_object_proxy").Proxy(f),
            lambda f: importlib.import_module("lazy_object_proxy").Proxy(f),
        ),
        Library("daskref", Proxy, Proxy),
    )
}


def is_any_proxy(x: Any) -> bool:
    """Tell whether an object is a proxy of one of the libraries."""
    return is_proxy(x) or _foreign(x) is not None


def unwrap(x: Any) -> Any:
    """Return the target of a proxy of any of the libraries, else the object itself."""
    if is_proxy(x):
        return extract(x)
    attribute = _foreign(x)
    return x if attribute is None else getattr(x, attribute)


def _foreign(x: Any) -> str | None:
    """Return the attribute that has the target of another library's proxy."""
    for cls in type(x).__mro__:
        package = str(cls.__module__).partition(".")[0]
        if package == "proxystore":
            return "__proxy_wrapped__"
        if package in ("wrapt", "lazy_object_proxy"):
            return "__wrapped__"
    return None
