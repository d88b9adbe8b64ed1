"""Lifetimes that end with the process."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from daskref.annotations import override
from daskref.background import make_lock
from daskref.connectors.base import Key
from daskref.exceptions import DaskrefError, LifetimeError
from daskref.lifetimes.base import Lifetime, evict_all, reference_of
from daskref.proxy.proxy import Proxy
from daskref.store.registry import get_or_create_store
from daskref.store.store import Store

logger = logging.getLogger(__name__)


class StaticLifetime(Lifetime):
    """Delete objects when this process exits.

    Notes
    -----
    One per process: every call returns the same. See :class:`Lifetime` for the
    methods; :meth:`add_key` needs the *store*. Thread-safe.

    At a normal exit the objects are deleted and their stores closed, so do not close
    those before. If the process is killed, the objects stay for as long as the store
    does. After a fork the child has none of its parent's objects.

    Examples
    --------
    >>> StaticLifetime() is StaticLifetime()
    True
    """

    name: str
    _instance: StaticLifetime | None = None
    _keys: dict[Store, set[Key]]
    _done: bool
    _pid: int
    _lock: threading.Lock

    def __new__(cls) -> StaticLifetime:
        """Return the process's one instance."""
        with _static_lock:
            if cls._instance is None or cls._instance._pid != os.getpid():
                self = cls._instance = super().__new__(cls)
                self.name = "static"
                self._pid = os.getpid()
                self._keys = {}
                self._done = False
                self._lock = make_lock()
                register_lifetime_atexit(self)
            return cls._instance

    def __repr__(self) -> str:
        state = "ended" if self._done else f"{self.active_count()} objects"
        return f"<StaticLifetime of process {self._pid}, {state}>"

    @override
    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        if store is None:
            raise ValueError("StaticLifetime.add_key() needs the store of the keys")
        with self._lock:
            if self._done:
                raise LifetimeError(self.name, "nothing can be bound to it any more")
            self._keys.setdefault(store, set()).update(keys)
        logger.debug("LIFETIME %s binds %s", self.name, keys)

    def add_proxy(self, *proxies: Proxy[Any]) -> None:
        """See :meth:`Lifetime.add_proxy`; opens the proxies' stores."""
        for reference in [reference_of(proxy) for proxy in proxies]:
            self.add_key(reference.key, store=get_or_create_store(reference.store))

    @override
    def active_count(self) -> int:
        with self._lock:
            return sum(map(len, self._keys.values()))

    def close(self, *, close_stores: bool = False) -> None:
        """See :meth:`Lifetime.close`. For good: there is one per process."""
        with self._lock:
            held, self._keys = self._keys, {}
            self._done = True
        failed: DaskrefError | None = None
        for store, keys in held.items():
            try:
                evict_all(store, keys)
            except DaskrefError as exc:
                failed = failed or exc
            if close_stores:
                store.close()
        if failed is not None:
            raise failed

    @override
    def done(self) -> bool:
        return self._done


_static_lock = make_lock()


def register_lifetime_atexit(
    lifetime: Lifetime, close_stores: bool = True
) -> Callable[[], None]:
    """End a lifetime when this process exits.

    Parameters
    ----------
    lifetime
        Any lifetime. A forked child leaves it to its parent.
    close_stores
        Close its stores then, too: do not close them before.

    Returns
    -------
    callable
        What :func:`atexit.unregister` takes.
    """
    pid = os.getpid()

    def close() -> None:
        if os.getpid() != pid:
            return
        try:
            lifetime.close(close_stores=close_stores)
        except DaskrefError as exc:
            logger.warning("%r ended, but not all is deleted: %s", lifetime, exc)

    atexit.register(close)
    return close
