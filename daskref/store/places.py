"""Places: where a store's objects are, whatever the store is called here."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dask.tokenize import tokenize

from daskref.connectors.base import Key
from daskref.objects.reference import StoreConfig
from daskref.store.registry import get_store
from daskref.store.store import Store


def config_of(store: Store) -> StoreConfig:
    """Return how another process finds or makes the store."""
    return store.config()


def same_place(one: StoreConfig, other: StoreConfig) -> bool:
    """Tell whether two stores have the same objects."""
    return (one.connector, one.options) == (other.connector, other.options)


def secrets_of(store: Store | None) -> dict[str, dict[str, str]]:
    """Return what opens the store besides its config; ProxyStore's have none."""
    connector = None if store is None else store.connector
    secrets: dict[str, dict[str, str]] = getattr(connector, "secrets", dict)()
    return secrets


def tell(
    key: Key,
    nbytes: int,
    config: StoreConfig,
    session: StoreConfig,
    secrets: Mapping[str, Mapping[str, str]],
) -> tuple[str, Any, int, bytes]:
    """Describe an object in a message to the scheduler.

    Parameters
    ----------
    key, nbytes
        The object, and its size in bytes.
    config
        The store that it is in.
    session
        The session's store.
    secrets
        What opens the store, besides its config.

    Returns
    -------
    tuple
        What tells the store's place, and the object there, from others in every
        process; the size; how the object is deleted, for whoever does that and for
        nobody to look into before. In the session's store place and how are empty.
    """
    if same_place(config, session):
        return "", tuple(key), nbytes, b""
    place = str(tokenize(config.connector, config.options))
    # the very key: connectors of ProxyStore's need its class
    how = pickle.dumps((config, key, secrets))
    return place, str(tokenize(tuple(key))), nbytes, how


def registered(config: StoreConfig) -> Store | None:
    """Return this process's registered store of that name and place, if there is one.

    A store that has the name but another place is none: it holds other objects.
    """
    store = get_store(config.name)
    if store is not None and same_place(config_of(store), config):
        return store
    return None


@contextmanager
def opened(config: StoreConfig) -> Iterator[Store]:
    """Have a store for the time of a block: the registered one, or one opened for it.

    Raises
    ------
    ConnectorUnavailableError
        If this process cannot reach the place, or it is gone.
    """
    store = registered(config)
    if store is not None:
        yield store
        return
    with Store.from_config(config) as store:
        yield store


def evict_from(config: StoreConfig, key: Key) -> None:
    """Delete an object through whatever store of its place this process has. Blocks."""
    with opened(config) as store:
        store.evict(key)
