"""What every lifetime can do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from daskref.connectors.base import Key
from daskref.exceptions import DaskrefError, NotStoredError
from daskref.objects.reference import Reference
from daskref.proxy.proxy import Proxy, get_factory
from daskref.store.factory import StoreFactory
from daskref.store.store import Store


@runtime_checkable
class Lifetime(Protocol):
    """What every lifetime can do."""

    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        """Bind objects by their keys.

        Parameters
        ----------
        *keys
            From :meth:`daskref.Store.put`.
        store
            Where they are; a lifetime that was made for one store needs none.

        Raises
        ------
        LifetimeError
            If the lifetime has ended.
        ValueError
            If it is not clear where they are, or that is not the lifetime's store.
        """

    def add_proxy(self, *proxies: Proxy[Any]) -> None:
        """Bind the objects of proxies, which are not resolved.

        Raises
        ------
        LifetimeError
            If the lifetime has ended.
        NotStoredError
            If one is not a proxy that a store made.
        ValueError
            If one's object is not in the lifetime's store.
        """

    def active_count(self) -> int:
        """Return how many objects are bound."""

    def close(self, *, close_stores: bool = False) -> None:
        """End the lifetime: delete what is bound. A second call is silent.

        Parameters
        ----------
        close_stores
            Close the lifetime's stores as well.

        Raises
        ------
        ConnectorError
            If an object could not be deleted. The others are, and the lifetime has
            ended all the same.
        """

    def done(self) -> bool:
        """Tell whether the lifetime has ended."""


def reference_of(proxy: Proxy[Any]) -> Reference:
    """Return the reference of a proxy that a store made.

    Raises
    ------
    NotStoredError
        If it is something else: a proxy with a factory of the user's, or one with an
        owner, who decides when its object goes.
    """
    factory = get_factory(proxy)
    if not isinstance(factory, StoreFactory):
        raise NotStoredError("a lifetime", type(factory).__name__)
    return factory.reference


def evict_all(store: Store, keys: Iterable[Key]) -> None:
    """Delete objects; raise the first error when all have been tried."""
    failed: DaskrefError | None = None
    for key in keys:
        try:
            store.evict(key)
        except DaskrefError as exc:
            failed = failed or exc
    if failed is not None:
        raise failed
