"""The state of a proxy: how it resolves, and what it answers until then.

A proxy changes its class when it has its target. Before, its class guards what Python,
Dask and debuggers ask of any object; after, it forwards, with no check left in the way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from types import FunctionType, GenericAlias, ModuleType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from dask.sizeof import sizeof

from daskref.exceptions import OwnershipError, ResolveError
from daskref.objects.attributes import ANSWERED
from daskref.objects.reference import Metadata, describe, imported_type
from daskref.proxy import _guards
from daskref.proxy._forwarding import (
    COMMON,
    GENERIC,
    Interface,
    ProxyType,
    Told,
    defines,
    forwarders,
    interface_of,
)
from daskref.proxy._inspectors import walked
from daskref.proxy._locking import end_turn, take_turn, try_turn

T = TypeVar("T")


def _metadata(proxy: Any) -> Metadata | None:
    """Return the metadata of the factory, if it has any."""
    metadata = getattr(proxy.__daskref_factory__, "metadata", None)
    return metadata if isinstance(metadata, Metadata) else None


if TYPE_CHECKING:
    # of `Any`: for type checkers, a proxy is whatever its target is
    class Slots(Any, Generic[T], metaclass=ProxyType):  # type: ignore[misc]
        """The fields of a proxy, and the methods that every object has."""

        __daskref_base__: type
        __daskref_factory__: Callable[[], T]
        __daskref_metadata__: Metadata | None
        __daskref_own__: frozenset[str]
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
            "__daskref_metadata__": property(_metadata),
            "__doc__": "The fields of a proxy, and the methods that every object has.",
            "__module__": __name__,
            "__slots__": ("__daskref_factory__", "__daskref_target__", "__weakref__"),
        },
    )
    del Slots.__slots__

# A proxy's own __setattr__ sets attributes of the target.
_fields = vars(Slots)
_set_factory = _fields["__daskref_factory__"].__set__
_set_target = _fields["__daskref_target__"].__set__
_get_target = _fields["__daskref_target__"].__get__
_delete_target = _fields["__daskref_target__"].__delete__
_set_class = vars(object)["__class__"].__set__
_new = object.__new__


def is_proxy(obj: object) -> bool:
    """Return whether an object is a proxy, without resolving it or asking its class."""
    return isinstance(type(obj), ProxyType)


def has_target(proxy: Any) -> bool:
    """Return whether a proxy is resolved."""
    resolved: bool = type(proxy).__daskref_resolved__
    return resolved


def base_of(cls: type) -> Any:
    """Return the class that the user named: Proxy, or a subclass of it."""
    return cls.__dict__.get("__daskref_base__", cls)


def _own_names(base: type) -> set[str]:
    """Return the names that a user's subclass of Proxy defines."""
    names: set[str] = set()
    for cls in base.__mro__:
        if Slots in cls.__bases__:  # Proxy
            break
        names |= vars(cls).keys()
    return names


@dataclass(frozen=True, eq=False, slots=True)
class Described:
    """A factory and the metadata of its target; it travels in place of the factory.

    Proxies answer with the metadata until they are resolved.
    """

    factory: Callable[[], Any]
    metadata: Metadata

    def __call__(self) -> Any:
        """Return the target."""
        return self.factory()


def create(
    cls: Any,
    factory: Callable[[], Any],
    *,
    cache_defaults: bool = False,
    target: Any = None,
) -> Any:
    """Return a new proxy of a user's class; see :class:`~daskref.Proxy`.

    Imports, fetches and calls nothing. Raises TypeError if the factory cannot be
    called.
    """
    if not callable(factory):
        raise TypeError(
            f"Proxy() takes a callable without arguments that returns the target, "
            f"not {type(factory).__name__}"
        )
    if target is not None:
        known = isinstance(getattr(factory, "metadata", None), Metadata)
        if cache_defaults and not known:
            factory = Described(factory, describe(target, sizeof(target)))
        made = create(cls, factory)
        populate(made, target)
        return made
    metadata = getattr(factory, "metadata", None)
    if metadata is None or not isinstance(metadata, Metadata):
        made = cls.__daskref_unknown__ or _unknown_class(cls)
    else:
        made = _described_class(cls, metadata)
    proxy: Any = _new(made)
    _set_factory(proxy, factory)
    return proxy


def blank(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Return a proxy whose class has an ``__init__`` that Python calls next."""
    return create(cls, _uninitialized)


def _uninitialized() -> NoReturn:
    raise ResolveError(
        "a proxy that is not initialized",
        "the __init__ of its class has to call super().__init__(factory) first",
    )


def initialize(proxy: Any, factory: Callable[[], Any], **options: Any) -> None:
    """Give a blank proxy its factory; see :func:`create`."""
    if proxy.__daskref_factory__ is not _uninitialized:
        return  # the __new__ of its class has given it one
    model = create(base_of(type(proxy)), factory, **options)
    _set_factory(proxy, model.__daskref_factory__)
    if has_target(model):
        populate(proxy, model.__daskref_target__)
    else:
        _set_class(proxy, type(model))


def populate(proxy: Any, target: Any) -> None:
    """Resolve a proxy that no other thread has yet to an object at hand."""
    _settle(proxy, target.__daskref_target__ if is_proxy(target) else target)


def forget(proxy: Any) -> None:
    """Let a proxy fetch its target anew at its next use.

    No other thread may be using the proxy.
    """
    cls, metadata = base_of(type(proxy)), proxy.__daskref_metadata__
    made = _unknown_class(cls) if metadata is None else _described_class(cls, metadata)
    resolved = has_target(proxy)
    # What finds no target must find the class that fetches: this order.
    _set_class(proxy, made)
    if resolved:
        _delete_target(proxy)


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
            _guards.describe(proxy),
            "its factory uses the very proxy that it is to resolve",
        )
    try:
        if type(proxy).__daskref_resolved__:
            return _get_target(proxy)
        try:
            target = proxy.__daskref_factory__()
            if is_proxy(target):
                target = target.__daskref_target__
        except (OwnershipError, ResolveError):
            raise
        except Exception as exc:
            raise ResolveError(
                _guards.describe(proxy),
                f"its factory raised {type(exc).__name__}: {exc}. The next use tries "
                "again",
            ) from exc
        return _settle(proxy, target)
    finally:
        end_turn(key)


def _settle(proxy: Any, target: Any) -> Any:
    cls: Any = type(proxy)
    kind: Any = type(target)
    try:
        made: type = _resolved_class(cls, kind)
    except TypeError:  # the target's class does not hash
        made = _resolved_class.__wrapped__(cls, kind)
    # A thread that sees the new class must find the target: this order.
    _set_target(proxy, target)
    _set_class(proxy, made)
    return target


def _unknown_class(cls: Any) -> type:
    """Return the class of proxies without metadata."""
    base = base_of(cls)
    made = base.__daskref_unknown__ = _class(base, GENERIC, State.UNKNOWN)
    return made


@lru_cache(maxsize=512)
def _imported_class(cls: type, type_name: str) -> type:
    """Return the class of unresolved proxies of a type that is imported."""
    interface = interface_of(imported_type(type_name))
    return _class(base_of(cls), interface, State.DESCRIBED)


def _described_class(cls: type, metadata: Metadata) -> type:
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
                _set_class(proxy, _class(*made))
        finally:
            end_turn(key)
    return cls


#: Attributes that ``iscoroutinefunction`` of inspect and asyncio read of any object.
_COROUTINE_MARKS = frozenset({"_is_coroutine", "_is_coroutine_marker"})
#: Types whose instances have special attributes of their own.
_NAMED = (type, FunctionType, ModuleType)

# Methods of unresolved proxies in place of the forwarding ones.


def _described_class_of(self: Any) -> Any:
    # without the type: isinstance() is False, rather than an error in any code
    return type(self) if walked() else _known_type(self) or type(self)


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


@lru_cache(maxsize=512)
def _class(base: type, interface: Interface, state: State) -> type:
    """Return the class of proxies with an interface; one per interface and state."""
    body: dict[str, Any] = forwarders(interface)
    # create() has initialized the proxy already: this does nothing, in C.
    body["__init__"] = object.__init__
    if "__subclasscheck__" in interface.names:  # the target may be a class
        body["__signature__"] = property(_guards.signature)
    resolved = state is State.RESOLVED
    if resolved:
        body["__class__"] = property(
            _guards.leaf_class_of if interface.walked else _guards.class_of
        )
    else:
        # In front of the empty slot: how every forwarder resolves.
        body["__daskref_target__"] = property(_fetch)
        body["__repr__"] = _guards.describe
        described = state is State.DESCRIBED
        body["__class__"] = property(
            _described_class_of if described else _guards.leaf_class_of
        )
        body["__getattr__"] = (
            _described_getattr if described else _guards.unknown_getattr
        )
        if "__hash__" not in body:
            body["__hash__"] = (
                _guards.described_hash if described else _guards.unknown_hash
            )
        if "__len__" in body and described:
            body["__len__"] = _guards.described_len
    own = _own_names(base)
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
