"""The protocol of all lifetimes."""

from __future__ import annotations

import logging
from typing import Any, Protocol, runtime_checkable

from daskref.connectors.base import Key
from daskref.exceptions import DaskrefError, NotStoredError
from daskref.objects.reference import Reference
from daskref.proxy.proxy import Proxy, get_factory
from daskref.store.factory import StoreFactory
from daskref.store.store import Store

logger = logging.getLogger(__name__)


@runtime_checkable
class Lifetime(Protocol):
    """The protocol of all lifetimes."""

    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        """Bind objects by their keys.

        Parameters
        ----------
        *keys
            From :meth:`daskref.Store.put`.
        store
            The store of the keys; a lifetime that was made for one store needs none.

        Raises
        ------
        LifetimeError
            If the lifetime has ended.
        ValueError
            If the store is not given but needed, or is not the lifetime's.
        """

    def add_proxy(self, *proxies: Proxy[Any]) -> None:
        """Bind the objects of proxies, which are not resolved.

        Raises
        ------
        LifetimeError
            If the lifetime has ended.
        NotStoredError
            If no store made one of the proxies.
        ValueError
            If an object is not in the lifetime's store.
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

    Raises NotStoredError for a proxy with a user's factory, and for one with an owner,
    which decides when its object goes.
    """
    factory = get_factory(proxy)
    if not isinstance(factory, StoreFactory):
        raise NotStoredError("a lifetime", type(factory).__name__)
    return factory.reference


def close_quietly(lifetime: Lifetime, close_stores: bool = False) -> None:
    """Close a lifetime; log an error instead of raising it."""
    try:
        lifetime.close(close_stores=close_stores)
    except DaskrefError as exc:
        logger.warning("%r ended, but not all is deleted: %s", lifetime, exc)
