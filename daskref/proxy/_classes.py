"""The classes of proxies: what a proxy answers before it has its target, and after.

A proxy changes its class when it has its target. Before, its class guards what Python,
Dask and debuggers ask of any object; after, it forwards, with no check left in the way.
"""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from enum import Enum, auto
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

from daskref.exceptions import OwnershipError, ResolveError
from daskref.objects.attributes import ANSWERED
from daskref.objects.reference import Metadata, imported_type
from daskref.proxy._forwarding import (
    GENERIC,
    Interface,
    Told,
    defines,
    forwarders,
    interface_of,
)
from daskref.proxy._inspectors import walked
from daskref.proxy._locking import end_turn, take_turn, try_turn
from daskref.proxy._slots import (
    base_of,
    get_target,
    has_target,
    is_proxy,
    own_names,
    set_class,
    set_target,
)


class State(Enum):
    """What the class of a proxy depends on, beside the target's type."""

    UNKNOWN = auto()  #: neither target nor metadata
    DESCRIBED = auto()  #: metadata
    RESOLVED = auto()  #: the target


def _fetch(proxy: Any) -> Any:
    """Return the target; call the factory if no thread has."""
    key = id(proxy)
    if not take_turn(key):
        raise ResolveError(
            _describe(proxy), "its factory uses the very proxy that it is to resolve"
        )
    try:
        if type(proxy).__daskref_resolved__:
            return get_target(proxy)
        try:
            target = proxy.__daskref_factory__()
            if is_proxy(target):
                target = target.__daskref_target__
        except (OwnershipError, ResolveError):
            raise
        except Exception as exc:
            raise ResolveError(
                _describe(proxy),
                f"its factory raised {type(exc).__name__}: {exc}. The next use tries "
                "again",
            ) from exc
        return settle(proxy, target)
    finally:
        end_turn(key)


def settle(proxy: Any, target: Any) -> Any:
    cls: Any = type(proxy)
    kind: Any = type(target)
    try:
        made: type = _resolved_class(cls, kind)
    except TypeError:  # the target's class does not hash
        made = _resolved_class.__wrapped__(cls, kind)
    # A thread that sees the new class must find the target: this order.
    set_target(proxy, target)
    set_class(proxy, made)
    return target


def _describe(proxy: Any) -> str:
    metadata = proxy.__daskref_metadata__
    if metadata is None:
        return "<Proxy, not resolved>"
    shape = f" {metadata.shape}" if metadata.shape is not None else ""
    return f"<Proxy of {metadata.type_name}{shape}, not resolved>"


def unknown_class(cls: Any) -> type:
    """Return the class of proxies without metadata."""
    base = base_of(cls)
    made = base.__daskref_unknown__ = _class(base, GENERIC, State.UNKNOWN)
    return made


@lru_cache(maxsize=512)
def _imported_class(cls: type, type_name: str) -> type:
    """Return the class of unresolved proxies of a type that is imported."""
    interface = interface_of(imported_type(type_name))
    return _class(base_of(cls), interface, State.DESCRIBED)


def described_class(cls: type, metadata: Metadata) -> type:
    """Return the class of unresolved proxies with this metadata, as of now."""
    find: Any = _imported_class
    if metadata.type_name.startswith("__main__."):
        find = _imported_class.__wrapped__  # in a notebook it may be another by now
    try:
        made: type = find(cls, metadata.type_name)
        return made
    except Exception:  # not imported, or a local class
        interface = GENERIC
    # Functions, iterators and the like name `builtins`, which does not have them.
    if metadata.type_name.startswith("builtins."):
        with suppress(Exception):
            interface = interface_of(metadata.type())
    return _class(base_of(cls), interface, State.DESCRIBED)


@lru_cache(maxsize=512)
def _resolved_class(cls: type, target_type: type) -> type:
    """Return the class of resolved proxies of a type."""
    return _class(base_of(cls), interface_of(target_type), State.RESOLVED)


def _known_type(proxy: Any) -> type | None:
    """Return the target's type by metadata; ``None`` if this process lacks its module.

    Gives the proxy the class for that type.
    """
    try:
        cls: type = proxy.__daskref_metadata__.type()
    except Exception:  # this process lacks the module, as resolving will say
        return None
    key = id(proxy)
    # A thread that has the turn resolves, which sets the final class.
    if not type(proxy).__daskref_foreseen__ and try_turn(key):
        try:
            if not has_target(proxy):
                made = base_of(type(proxy)), interface_of(cls), State.DESCRIBED
                set_class(proxy, _class(*made))
        finally:
            end_turn(key)
    return cls


#: Attributes that ``iscoroutinefunction`` of inspect and asyncio read of any object.
_COROUTINE_MARKS = frozenset({"_is_coroutine", "_is_coroutine_marker"})
#: Types whose instances have special attributes of their own.
_NAMED = (type, FunctionType, ModuleType)

# Methods of unresolved proxies in place of the forwarding ones.


def _leaf_class_of(self: Any) -> Any:
    return type(self) if walked() else self.__daskref_target__.__class__


def _described_class_of(self: Any) -> Any:
    # without the type: isinstance() is False, rather than an error in any code
    return type(self) if walked() else _known_type(self) or type(self)


def _unknown_getattr(self: Any, name: str) -> Any:
    if name[:2] == "__" and name[-2:] == "__":
        if name.startswith("__dask"):
            raise AttributeError(name)
        if name == "__name__" and walked():  # to make a key or a label
            return "proxy"
    return getattr(self.__daskref_target__, name)


def _described_getattr(self: Any, name: str) -> Any:
    metadata = self.__daskref_metadata__
    if name in ANSWERED:
        with suppress(LookupError):
            return metadata.answer(name)
    elif (name.startswith("__") and name.endswith("__")) or name in _COROUTINE_MARKS:
        if name.startswith("__dask"):
            raise AttributeError(name)
        if name == "__name__" and walked():
            return metadata.type_name.split(".")[-1]
        cls = _known_type(self)
        if not (cls is None or defines(cls, name) or issubclass(cls, _NAMED)):
            raise AttributeError(
                f"{metadata.type_name!r} object has no attribute {name!r}"
            )
    return getattr(self.__daskref_target__, name)


def _unknown_hash(self: Any) -> int:
    if walked():  # Dask looks for it among keys, where it is not
        return object.__hash__(self)
    return hash(self.__daskref_target__)


def _described_hash(self: Any) -> int:
    metadata = self.__daskref_metadata__
    cached: int | None = metadata.cached_hash()
    if cached is not None:
        return cached
    if not metadata.hashable:
        raise TypeError(f"unhashable type: {metadata.type_name!r}")
    if walked():
        return object.__hash__(self)
    return hash(self.__daskref_target__)


def _described_len(self: Any) -> int:
    length: int | None = self.__daskref_metadata__.length
    return len(self.__daskref_target__) if length is None else length


def _signature(self: Any) -> Any:
    target = self.__daskref_target__
    # Of a class, inspect would read the signature off the methods of the proxy's type.
    asked_by = sys._getframe(1).f_globals.get("__name__")
    if asked_by == "inspect" and isinstance(target, type):
        return inspect.signature(target)
    return target.__signature__


def _class_of(self: Any) -> Any:
    return self.__daskref_target__.__class__


@lru_cache(maxsize=512)
def _class(base: type, interface: Interface, state: State) -> type:
    """Return the class of proxies with an interface; one per interface and state."""
    body: dict[str, Any] = forwarders(interface)
    # create() has initialized the proxy already: this does nothing, in C.
    body["__init__"] = object.__init__
    if "__subclasscheck__" in interface.names:  # the target may be a class
        body["__signature__"] = property(_signature)
    resolved = state is State.RESOLVED
    if resolved:
        body["__class__"] = property(_leaf_class_of if interface.walked else _class_of)
    else:
        # In front of the empty slot: how every forwarder resolves.
        body["__daskref_target__"] = property(_fetch)
        body["__repr__"] = _describe
        described = state is State.DESCRIBED
        body["__class__"] = property(
            _described_class_of if described else _leaf_class_of
        )
        body["__getattr__"] = _described_getattr if described else _unknown_getattr
        if "__hash__" not in body:
            body["__hash__"] = _described_hash if described else _unknown_hash
        if "__len__" in body and described:
            body["__len__"] = _described_len
    own = own_names(base)
    made = type(base)(
        base.__name__,
        (base,),
        {
            **{name: method for name, method in body.items() if name not in own},
            "__slots__": (),
            "__daskref_base__": base,
            "__daskref_foreseen__": interface is not GENERIC,
            "__daskref_own__": frozenset(n for n in own if not n.startswith("__")),
            "__daskref_resolved__": resolved,
            "__qualname__": base.__qualname__,
            "__module__": Told("__module__", base.__module__, resolved),
            "__doc__": Told("__doc__", base.__doc__, resolved),
        },
    )
    type.__delattr__(made, "__slots__")
    if interface.pattern is not None:
        interface.pattern.register(made)
    return made
