"""The stores of this process: by name, one of each.

Below the stores, which register here, and the proxies, which find them here;
:mod:`daskref.store.registry` is the same for users.

A store that was made for a proxy that arrived is found by its whole place, name and
connector: a later program may use the name for another place, and a worker that serves
both programs still tells the stores apart.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from daskref.background import make_lock, make_rlock
from daskref.exceptions import StoreExistsError
from daskref.objects.reference import StoreConfig

#: Users know it by that name.
logger = logging.getLogger("daskref.store.registry")


class Registered(Protocol):
    """The part of a store that the registry needs."""

    name: str

    def config(self) -> StoreConfig:
        """Return how any process finds or makes it."""

    def close(self) -> None:
        """End its use."""


_registry: dict[str, Any] = {}
#: Place -> store that was made for its proxies; the most recently used.
_made: OrderedDict[str, Any] = OrderedDict()
#: Most stores that stay open of those.
_MOST_MADE = 64
#: Place of a store that is being made -> lock that its maker holds.
_making: dict[str, threading.Lock] = {}
_lock = make_rlock()
#: Makes a store of its configuration; set by the module of stores.
make: Callable[[StoreConfig], Registered] | None = None


def register_store(store: Registered, exist_ok: bool = False) -> None:
    """Register a store under its name. A second time is silent.

    Parameters
    ----------
    store
        The store.
    exist_ok
        Whether it replaces another store of that name.

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


def unregister_store(name_or_store: str | Registered) -> None:
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


def get_registered(name: str) -> Any:
    """Return the store of a name; ``None`` if there is none."""
    with _lock:
        return _registry.get(name)


def get_or_make(config: StoreConfig, register: bool = True) -> Any:
    """See :func:`daskref.get_or_create_store`."""
    assert make is not None, "daskref.store was not imported"
    if not register:
        return _find(config) or make(config)
    with _lock:
        if (store := _find(config)) is not None:
            return store
        place = _place(config)
        making = _making.setdefault(place, make_lock())
    with making:  # connecting may be slow: other stores' users do not wait for it
        try:
            return _find(config) or _keep(make(config))
        finally:
            with _lock:
                _making.pop(place, None)


def _place(config: StoreConfig) -> str:
    return repr(config[:3])


def _find(config: StoreConfig) -> Any:
    """Return the store for a configuration, if there is one."""
    with _lock:
        store: Any = _registry.get(config.name)
        written = not isinstance(config.connector, str)
        if store is not None and (
            written or _made.get(_place(store.config())) is not store
        ):
            return store  # of a user's own making or writing: the name decides
        place = _place(config)
        if place in _made:
            _made.move_to_end(place)
        return _made.get(place)


def _keep(store: Registered) -> Any:
    """Keep a store that was made; if another thread kept one before, return that."""
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
