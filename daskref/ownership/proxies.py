"""Proxies that obey the rules of ownership."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar, cast

from daskref.exceptions import NotStoredError
from daskref.ownership.borrows import Ownership
from daskref.ownership.factories import BorrowFactory, OwnedFactory
from daskref.ownership.rules import ONE_OWNER, violation
from daskref.proxy.proxy import Proxy, get_factory, is_proxy
from daskref.store.factory import StoreFactory

T = TypeVar("T")


def refuse(proxy: Any, reason: str, rule: str) -> NoReturn:
    """Raise the error that quotes a rule."""
    factory = get_factory(proxy) if is_proxy(proxy) else None
    raise violation(repr(factory or type(proxy)), reason, rule)


class _Ruled(Proxy[T]):
    """Base of the proxies that obey rules: never copied by accident."""

    __slots__ = ()

    def __copy__(self) -> NoReturn:
        refuse(self, "it cannot be copied: clone() an owner, or borrow()", ONE_OWNER)

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        refuse(self, "it cannot be copied: clone() an owner, or borrow()", ONE_OWNER)

    def __dask_tokenize__(self) -> Any:
        return get_factory(self).__dask_tokenize__()  # type: ignore[attr-defined]


class OwnedProxy(_Ruled[T]):
    """A proxy that owns its object in the store.

    Parameters
    ----------
    factory
        Of a proxy that a store made; the object may have no other owner.

    Raises
    ------
    OwnershipError
        If the object has an owner in this process.
    NotStoredError
        If the factory is not a store's.

    Notes
    -----
    Deleting the proxy deletes the object from the store: before ``del`` returns, unless
    ``del`` runs on an event loop, the object is borrowed, or the store takes longer
    than a second. The exit of the process deletes the object as well, borrowed or not.

    See Also
    --------
    daskref.ownership : the rules
    drop : Delete the object now, errors included.
    """

    __slots__ = ()

    def __new__(cls, factory: StoreFactory) -> OwnedProxy[T]:
        """Take the ownership of an object."""
        if not isinstance(factory, StoreFactory):
            raise NotStoredError("an owner", type(factory).__name__)
        ownership = Ownership(factory)
        proxy = Proxy.__new__(cls, OwnedFactory(ownership))
        ownership.belongs_to(proxy)
        return cast("OwnedProxy[T]", proxy)


class _Borrowed(_Ruled[T]):
    """Base of borrows."""

    __slots__ = ()

    def __new__(cls, factory: BorrowFactory) -> Any:
        """Make the proxy of a borrow, in the owner's process or another."""
        if not isinstance(factory, BorrowFactory):
            raise TypeError(
                "a borrow is made by borrow(owner) or mut_borrow(owner), not of a "
                f"{type(factory).__name__}"
            )
        proxy = Proxy.__new__(cls, factory)
        if factory.borrow is not None:
            factory.borrow.belongs_to(proxy)
        return proxy


class RefProxy(_Borrowed[T]):
    """A shared borrow; see :func:`borrow`."""

    __slots__ = ()


class RefMutProxy(_Borrowed[T]):
    """A mutable borrow; see :func:`mut_borrow`."""

    __slots__ = ()


# Else p.__slots__ would find them before the target's.
for _cls in (_Ruled, OwnedProxy, _Borrowed, RefProxy, RefMutProxy):
    type.__delattr__(_cls, "__slots__")
