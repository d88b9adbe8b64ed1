"""The state of a proxy: how it resolves, and what it answers until then.

A proxy changes its class when it has its target. Before, its class guards what Python,
Dask and debuggers ask of any object; after, it forwards, with no check left in the way.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from types import FrameType, FunctionType, GenericAlias, ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from daskref.exceptions import OwnershipError, ResolveError
from daskref.interfaces import (
    COMMON,
    GENERIC,
    Interface,
    ProxyType,
    Told,
    bare,
    defines,
    forwarders,
    interface_of,
)
from daskref.reference import Metadata

T = TypeVar("T")

if TYPE_CHECKING:

    class Slots(Generic[T], metaclass=ProxyType):
        """The fields of a proxy, and the methods that every object has."""

        __daskref_factory__: Callable[[], T]
        __daskref_metadata__: Metadata | None
        __daskref_lock__: threading.RLock
        __daskref_busy__: bool
        __daskref_target__: T

else:
    # Neither typing.Generic nor annotations: their attributes would be found in front
    # of the target's. For the same reason there is no __slots__ left.
    Slots = ProxyType(
        "Slots",
        (),
        {
            **COMMON,
            "__class_getitem__": classmethod(GenericAlias),
            "__doc__": "The fields of a proxy, and the methods that every object has.",
            "__module__": __name__,
            "__slots__": (
                "__daskref_busy__",
                "__daskref_factory__",
                "__daskref_lock__",
                "__daskref_metadata__",
                "__daskref_target__",
                "__weakref__",
            ),
        },
    )
    del Slots.__slots__

# A proxy's own __setattr__ sets attributes of the target.
_fields = vars(Slots)
_set_factory = _fields["__daskref_factory__"].__set__
_set_metadata = _fields["__daskref_metadata__"].__set__
_set_lock = _fields["__daskref_lock__"].__set__
_set_busy = _fields["__daskref_busy__"].__set__
_set_target = _fields["__daskref_target__"].__set__
_get_target = _fields["__daskref_target__"].__get__
_delete_target = _fields["__daskref_target__"].__delete__
_set_class = vars(object)["__class__"].__set__


def create(base: type, factory: Callable[[], Any]) -> Any:
    """Return a new unresolved proxy, without importing, fetching or calling anything.

    Parameters
    ----------
    base
        The class that the user named.
    factory
        ``() -> target``.
    """
    metadata = getattr(factory, "metadata", None)
    if isinstance(metadata, Metadata):
        interface = _foreseen(metadata)
    else:
        metadata, interface = None, GENERIC
    proxy: Any = object.__new__(_class(base, interface, False))
    _set_factory(proxy, factory)
    _set_metadata(proxy, metadata)
    _set_lock(proxy, threading.RLock())
    _set_busy(proxy, False)
    return proxy


def has_target(proxy: Any) -> bool:
    """Return whether a proxy is resolved."""
    try:
        _get_target(proxy)
    except AttributeError:
        return False
    return True


def base_of(cls: type) -> Any:
    """Return the class that the user named: Proxy, or their subclass of it."""
    return cls.__dict__.get("__daskref_base__", cls)


def _fetch(proxy: Any) -> Any:
    """Return the target; call the factory if nobody has."""
    with proxy.__daskref_lock__:
        if has_target(proxy):
            return _get_target(proxy)
        if proxy.__daskref_busy__:
            raise ResolveError(
                _describe(proxy),
                "its factory uses the very proxy that it is to resolve",
            )
        _set_busy(proxy, True)
        try:
            target = bare(proxy.__daskref_factory__())
        except (OwnershipError, ResolveError):
            raise
        except Exception as exc:
            raise ResolveError(
                _describe(proxy),
                f"its factory raised {type(exc).__name__}: {exc}. The next use tries "
                "again",
            ) from exc
        finally:
            _set_busy(proxy, False)
        return _settle(proxy, target)


def _settle(proxy: Any, target: Any) -> Any:
    made = _class(base_of(type(proxy)), interface_of(type(target)), True)
    # A thread that sees the new class must find the target: this order.
    _set_target(proxy, target)
    _set_class(proxy, made)
    return target


def give(proxy: Any, target: Any) -> None:
    """Make a target at hand that of a proxy, unless it has one."""
    with proxy.__daskref_lock__:
        if not has_target(proxy):
            _settle(proxy, bare(target))


def forget(proxy: Any) -> None:
    """Let a proxy fetch its target anew at its next use.

    No other thread may be using the proxy.
    """
    metadata = getattr(proxy.__daskref_factory__, "metadata", None)
    if isinstance(metadata, Metadata):
        interface = _foreseen(metadata)
    else:
        metadata, interface = None, GENERIC
    with proxy.__daskref_lock__:
        # What finds no target must find the class that fetches: this order.
        _set_class(proxy, _class(base_of(type(proxy)), interface, False))
        _set_metadata(proxy, metadata)
        if has_target(proxy):
            _delete_target(proxy)


def _describe(proxy: Any) -> str:
    metadata = proxy.__daskref_metadata__
    if metadata is None:
        return "<Proxy, not resolved>"
    shape = f" {metadata.shape}" if metadata.shape is not None else ""
    return f"<Proxy of {metadata.type_name}{shape}, not resolved>"


#: Modules that search arguments for tasks, keys and collections, or choose how to
#: pickle. To them a proxy is a leaf: they are told its own class, not the target's, or
#: they would fetch a list to look into it, a function to send its code.
_WALKERS = frozenset(
    {
        "cloudpickle.cloudpickle",
        "dask._task_spec",
        "dask.base",
        "dask.core",
        "dask.delayed",
        "dask.tokenize",
        "dask.utils",
        "distributed.protocol.pickle",
        "distributed.protocol.serialize",
        "distributed.utils_comm",
    }
)
#: Modules through which they ask.
_ASKED_THROUGH = frozenset({"abc", "dataclasses", "inspect"})


def _walked() -> bool:
    """Return whether one of the walkers asks the caller."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module not in _ASKED_THROUGH:
            return module in _WALKERS
        frame = frame.f_back
    return False


@lru_cache(maxsize=256)
def _find_interface(type_name: str) -> Interface:
    """Return the interface of a type whose module is imported, by the type's name."""
    parts = type_name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:i]))
        if module is None:
            continue
        found: Any = module
        for part in parts[i:]:
            found = vars(found)[part]  # getattr() might import
        if f"{found.__module__}.{found.__qualname__}" == type_name:
            return interface_of(found)
        break
    raise LookupError(type_name)


def _foreseen(metadata: Metadata) -> Interface:
    """Return the interface that a target will have, if it is known by now."""
    try:
        return _find_interface(metadata.type_name)
    except Exception:  # not imported, or a local class
        if not metadata.type_name.startswith("builtins."):
            return GENERIC
    try:
        # Functions, iterators and the like say that they are from there, and are not.
        return interface_of(metadata.type())
    except Exception:
        return GENERIC


def _known_type(proxy: Any) -> type | None:
    """Return the target's type by metadata; None if it cannot be told."""
    metadata = proxy.__daskref_metadata__
    if metadata is None:
        return None
    try:
        cls: type = metadata.type()
    except Exception:  # this process lacks the module: so would resolving, with a word
        return None
    lock = proxy.__daskref_lock__
    # Now a better class is known than Proxy() may have had. If the lock is held,
    # somebody resolves, which sets the final class.
    if lock.acquire(blocking=False):
        try:
            if not has_target(proxy):
                made = _class(base_of(type(proxy)), interface_of(cls), False)
                if type(proxy) is not made:
                    _set_class(proxy, made)
        finally:
            lock.release()
    return cls


#: What ``iscoroutinefunction`` of inspect and asyncio ask of any object.
_COROUTINE_MARKS = frozenset({"_is_coroutine", "_is_coroutine_marker"})
#: Types whose instances have special attributes of their own.
_NAMED = (type, FunctionType, ModuleType)

# What classes of unresolved proxies have in place of the forwarding methods.


def _unresolved_class(self: Any) -> Any:
    if _walked():
        return type(self)
    if self.__daskref_metadata__ is None:
        return self.__daskref_target__.__class__
    # Rather a plain "no" to every isinstance() than an error in all sorts of code.
    return _known_type(self) or type(self)


def _unresolved_getattr(self: Any, name: str) -> Any:
    if name == "__daskref_target__":  # the slot is empty: how every forwarder resolves
        return _fetch(self)
    metadata = self.__daskref_metadata__
    if (name.startswith("__") and name.endswith("__")) or name in _COROUTINE_MARKS:
        if name.startswith("__dask"):
            raise AttributeError(name)
        if name == "__name__" and _walked():  # to make a key or a label
            return "proxy" if metadata is None else metadata.type_name.split(".")[-1]
        if metadata is not None:
            cls = _known_type(self)
            if not (cls is None or defines(cls, name) or issubclass(cls, _NAMED)):
                raise AttributeError(
                    f"{metadata.type_name!r} object has no attribute {name!r}"
                )
    elif name == "shape" and metadata is not None and metadata.shape is not None:
        return metadata.shape
    return getattr(_fetch(self), name)


def _unresolved_hash(self: Any) -> int:
    metadata = self.__daskref_metadata__
    if metadata is not None:
        cached: int | None = metadata.cached_hash()
        if cached is not None:
            return cached
        if not metadata.hashable:
            raise TypeError(f"unhashable type: {metadata.type_name!r}")
    if _walked():  # looking for it among keys, where it is not
        return object.__hash__(self)
    return hash(self.__daskref_target__)


def _unresolved_len(self: Any) -> int:
    metadata = self.__daskref_metadata__
    if metadata is not None and metadata.length is not None:
        return int(metadata.length)
    return len(self.__daskref_target__)


def _walked_class(self: Any) -> Any:
    return type(self) if _walked() else self.__daskref_target__.__class__


@lru_cache(maxsize=512)
def _class(base: type, interface: Interface, resolved: bool) -> type:
    """Return the class of proxies with an interface; one per interface and state."""
    body = forwarders(interface)
    if resolved:
        body["__class__"] = property(
            _walked_class
            if interface.walked
            else lambda self: self.__daskref_target__.__class__
        )
    else:
        body["__class__"] = property(_unresolved_class)
        body["__getattr__"] = _unresolved_getattr
        body["__repr__"] = _describe
        if "__hash__" not in body:
            body["__hash__"] = _unresolved_hash
        if "__len__" in body:
            body["__len__"] = _unresolved_len
    made = type(base)(
        base.__name__,
        (base,),
        {
            **body,
            "__slots__": (),
            "__daskref_base__": base,
            "__qualname__": base.__qualname__,
            "__module__": Told("__module__", base.__module__, resolved),
            "__doc__": Told("__doc__", base.__doc__, resolved),
        },
    )
    type.__delattr__(made, "__slots__")
    return made
