"""Methods of proxies that answer without the target, in place of forwarding ones."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from daskref.proxy._inspectors import walked


def describe(proxy: Any) -> str:
    """Return the ``repr`` of an unresolved proxy."""
    metadata = proxy.__daskref_metadata__
    if metadata is None:
        return "<Proxy, not resolved>"
    shape = f" {metadata.shape}" if metadata.shape is not None else ""
    return f"<Proxy of {metadata.type_name}{shape}, not resolved>"


def leaf_class_of(self: Any) -> Any:
    """Return the proxy's own class to callers that inspect, else the target's."""
    return type(self) if walked() else self.__daskref_target__.__class__


def unknown_getattr(self: Any, name: str) -> Any:
    """Look an attribute up without metadata."""
    if name[:2] == "__" and name[-2:] == "__":
        if name.startswith("__dask"):
            raise AttributeError(name)
        if name == "__name__" and walked():  # to make a key or a label
            return "proxy"
    return getattr(self.__daskref_target__, name)


def unknown_hash(self: Any) -> int:
    """Return a hash without metadata."""
    if walked():  # Dask looks for it among keys, where it is not
        return object.__hash__(self)
    return hash(self.__daskref_target__)


def described_hash(self: Any) -> int:
    """Return the hash by metadata, if valid here."""
    metadata = self.__daskref_metadata__
    cached: int | None = metadata.cached_hash()
    if cached is not None:
        return cached
    if not metadata.hashable:
        raise TypeError(f"unhashable type: {metadata.type_name!r}")
    if walked():
        return object.__hash__(self)
    return hash(self.__daskref_target__)


def described_len(self: Any) -> int:
    """Return the length by metadata, if known."""
    length: int | None = self.__daskref_metadata__.length
    return len(self.__daskref_target__) if length is None else length


def signature(self: Any) -> Any:
    """Return the target's signature, for :mod:`inspect`."""
    target = self.__daskref_target__
    # Of a class, inspect would read the signature off the methods of the proxy's type.
    asked_by = sys._getframe(1).f_globals.get("__name__")
    if asked_by == "inspect" and isinstance(target, type):
        return inspect.signature(target)
    return target.__signature__


def class_of(self: Any) -> Any:
    """Return the target's class."""
    return self.__daskref_target__.__class__
