"""The fields of a proxy, and how to read and write them past its target."""

from __future__ import annotations

from collections.abc import Callable
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from daskref.objects.reference import Metadata
from daskref.proxy._forwarding import COMMON, ProxyType

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
set_factory = _fields["__daskref_factory__"].__set__
set_target = _fields["__daskref_target__"].__set__
get_target = _fields["__daskref_target__"].__get__
delete_target = _fields["__daskref_target__"].__delete__
set_class = vars(object)["__class__"].__set__
new = object.__new__


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


def own_names(base: type) -> set[str]:
    """Return the names that a user's subclass of Proxy defines."""
    names: set[str] = set()
    for cls in base.__mro__:
        if Slots in cls.__bases__:  # Proxy
            break
        names |= vars(cls).keys()
    return names
