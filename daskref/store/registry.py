"""The registry of stores: by name, one of each per process.

A store that was made for a proxy that arrived is found again by its whole place, name
and connector: a later program of the user's may use the name for another place, and the
worker that served both still tells them apart.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from daskref.background import make_lock, make_rlock
from daskref.exceptions import StoreExistsError
from daskref.objects.reference import Reference, StoreConfig
from daskref.proxy.proxy import get_factory, is_proxy

if TYPE_CHECKING:
    from daskref.store._objects import ObjectStore
    from daskref.store.store import Store

logger = logging.getLogger(__name__)

_registry: dict[str, Any] = {}
#: Place -> store that was made for its proxies; those used last.
_made: OrderedDict[str, Any] = OrderedDict()
#: How many of those stay open.
_MOST_MADE = 64
#: Place of a store that is being made -> held by the thread that makes it.
_making: dict[str, threading.Lock] = {}
_lock = make_rlock()


def get_store(name: Any) -> Store | None:
    """Return a registered store.

    Parameters
    ----------
    name
        Its name; or a proxy that a store made, for that store, which is then made of
        its configuration if need be.

    Returns
    -------
    Store or None
        ``None`` if no store of that name is registered.

    Raises
    ------
    TypeError
        If it is a proxy that no store made.
    """
    if is_proxy(name):
        return get_or_create_store(reference_of(name).store)
    with _lock:
        found: Store | None = _registry.get(name)
        return found


def get_key(proxy: Any) -> Any:
    """Return the key of the object that a proxy stands for.

    Parameters
    ----------
    proxy
        The proxy; it is not resolved by this.

    Returns
    -------
    Key
        For the methods of its store.

    Raises
    ------
    TypeError
        If it is not a proxy, or one that no store made.
    """
    return reference_of(proxy).key


def reference_of(proxy: Any) -> Reference:
    """Return what a proxy resolves.

    Raises
    ------
    TypeError
        If it is not a proxy, or one that no store made.
    """
    factory = get_factory(proxy)
    reference = getattr(factory, "reference", None)
    if not isinstance(reference, Reference):
        raise TypeError(
            f"the proxy was not made by a store: its factory is a "
            f"{type(factory).__name__}"
        )
    return reference


def register_store(store: ObjectStore, exist_ok: bool = False) -> None:
    """Register a store under its name.

    Parameters
    ----------
    store
        The store. A second time is silent.
    exist_ok
        Whether it takes the place of another store of that name.

    Raises
    ------
    StoreExistsError
        If another store has the name and *exist_ok* is false.
    """
    with _lock:
        present = _registry.get(store.name)
        if present is store:
            return
        if present is not None and not exist_ok:
            raise StoreExistsError(store.name)
        _registry[store.name] = store
    logger.info("Registered a store named %r", store.name)


def unregister_store(name_or_store: str | ObjectStore) -> None:
    """Forget a registered store, without closing it. Silent if there is none.

    Parameters
    ----------
    name_or_store
        A name: whichever store has it. A store: that one, if it is registered.
    """
    with _lock:
        store: Any = name_or_store
        if isinstance(store, str):
            store = _registry.get(store)
        if store is None:
            return
        place = _place(store.config())
        is_made = _made.get(place) is store
        is_registered = _registry.get(store.name) is store
        if is_made:
            del _made[place]
        if not is_registered:
            return
        del _registry[store.name]
    logger.info("Unregistered a store named %r", store.name)


@contextmanager
def store_registration(*stores: Store, exist_ok: bool = False) -> Iterator[None]:
    """Register stores for the length of a ``with`` block.

    Parameters
    ----------
    *stores
        The stores. They are unregistered at the end, whatever happens; not closed.
    exist_ok
        Whether they take the place of others of their names.

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
    """Return the registered store that a configuration names, made of it if need be.

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
        The caller closes it if it was made here; a registered one lasts until somebody
        does.

    Raises
    ------
    ConnectorUnavailableError
        If this process cannot reach the place.
    ConfigError
        If there is no such connector here.
    """
    from daskref.store.store import Store

    if not register:
        return _find(store_config) or Store.from_config(store_config)
    with _lock:
        if (store := _find(store_config)) is not None:
            return store
        place = _place(store_config)
        making = _making.setdefault(place, make_lock())
    with making:  # connecting may be slow: other stores' users do not wait for it
        try:
            return _find(store_config) or _keep(Store.from_config(store_config))
        finally:
            with _lock:
                _making.pop(place, None)


def _place(config: StoreConfig) -> str:
    return repr(config[:3])


def _find(config: StoreConfig) -> Store | None:
    """Return the store for a configuration, if there is one."""
    with _lock:
        store: Store | None = _registry.get(config.name)
        if store is not None and _made.get(_place(store.config())) is not store:
            return store  # the user's own: the name decides
        place = _place(config)
        if place in _made:
            _made.move_to_end(place)
        return _made.get(place)


def _keep(store: Store) -> Store:
    """Keep a store that was made, unless another one was meanwhile; return that."""
    surplus = []
    with _lock:
        # 1. A fails to make it. 2. B, which waited, and C, which did not, both do.
        found = _find(store.config())
        if found is None:
            _made[_place(store.config())] = _registry[store.name] = store
            while len(_made) > _MOST_MADE:
                surplus.append(_made.popitem(last=False)[1])
    if found is not None:
        store.close()
        return found
    logger.info("Registered a store named %r", store.name)
    for each in surplus:
        each.close()
    return store
