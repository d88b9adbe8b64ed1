"""The registry of stores for users: by name, one of each per process.

The *place* of a store is where its objects are, by connector and options, whatever the
name of the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from daskref.connectors.base import Key
from daskref.objects.reference import StoreConfig
from daskref.proxy.proxy import is_proxy, reference_of
from daskref.store._registry import get_or_make, get_registered
from daskref.store._registry import register_store as register_store
from daskref.store._registry import unregister_store as unregister_store
from daskref.store.store import Store


def get_store(name: Any) -> Store | None:
    """Return a registered store.

    Parameters
    ----------
    name
        Its name; or a proxy that a store made, for that store: it is made of its
        configuration if need be.

    Returns
    -------
    Store or None
        ``None`` if no store of that name is registered.

    Raises
    ------
    NotStoredError
        If it is a proxy that no store made.
    """
    if is_proxy(name):
        return get_or_create_store(reference_of(name).store)
    found: Store | None = get_registered(name)
    return found


def get_key(proxy: Any) -> Any:
    """Return the key of the object that a proxy stands for; does not resolve the proxy.

    Raises
    ------
    TypeError
        If it is not a proxy.
    NotStoredError
        If no store made it.
    """
    return reference_of(proxy).key


@contextmanager
def store_registration(*stores: Store, exist_ok: bool = False) -> Iterator[None]:
    """Register stores for the length of a ``with`` block.

    Parameters
    ----------
    *stores
        The stores. They are unregistered at the end, whatever happens; not closed.
    exist_ok
        Whether they replace other stores of their names.

    Raises
    ------
    StoreExistsError
        If another store has one of the names and *exist_ok* is false; then none of
        them is registered.

    Examples
    --------
    >>> from daskref import Store
    >>> from daskref.connectors import LocalConnector
    >>> with Store("example", LocalConnector()) as store:
    ...     with store_registration(store):
    ...         get_store("example") is store
    True
    """
    registered = []
    try:
        for store in stores:
            register_store(store, exist_ok=exist_ok)
            registered.append(store)
        yield
    finally:
        for store in registered:
            unregister_store(store)


def get_or_create_store(store_config: StoreConfig, *, register: bool = True) -> Store:
    """Return the registered store that a configuration names; make it if need be.

    Parameters
    ----------
    store_config
        From :meth:`daskref.Store.config`, in any process.
    register
        Whether to register a store that was made. If so, one store is made, however
        many threads ask.

    Returns
    -------
    Store
        The caller closes an unregistered store; a registered one lasts until it is
        closed.

    Raises
    ------
    ConnectorUnavailableError
        If this process cannot reach the place.
    ConfigError
        If there is no such connector here.
    """
    store: Store = get_or_make(store_config, register)
    return store


def same_place(one: StoreConfig, other: StoreConfig) -> bool:
    """Tell whether two stores have the same objects."""
    return (one.connector, one.options) == (other.connector, other.options)


def registered(config: StoreConfig) -> Store | None:
    """Return this process's registered store of that name and place, if any.

    A store of that name with another place holds other objects.
    """
    store = get_store(config.name)
    is_it = store is not None and same_place(store.config(), config)
    return store if is_it else None


@contextmanager
def opened(config: StoreConfig) -> Iterator[Store]:
    """Yield the registered store of a configuration, or one opened for the block.

    Raises ConnectorUnavailableError if this process cannot reach the place, or it is
    gone.
    """
    store = registered(config)
    if store is not None:
        yield store
        return
    with Store.from_config(config) as store:
        yield store


def evict_from(config: StoreConfig, key: Key) -> None:
    """Delete an object through any store of its place. Blocks."""
    with opened(config) as store:
        store.evict(key)
