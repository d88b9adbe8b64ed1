"""Lifetimes that end with the process."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any

from daskref.annotations import override
from daskref.background import make_lock
from daskref.connectors.base import Key
from daskref.exceptions import DaskrefError, LifetimeError
from daskref.lifetimes.base import Lifetime, close_quietly, reference_of
from daskref.lifetimes.context import ContextLifetime
from daskref.proxy.proxy import Proxy
from daskref.store.registry import get_or_create_store
from daskref.store.store import Store


class StaticLifetime(Lifetime):
    """Delete objects when this process exits.

    Notes
    -----
    One per process: every call returns the same. See :class:`Lifetime` for the
    methods; :meth:`add_key` needs the *store*. Thread-safe.

    A normal exit deletes the objects and closes their stores, so do not close those
    before. If the process is killed, the objects stay for as long as the store
    does. After a fork the child has none of its parent's objects.

    Examples
    --------
    >>> StaticLifetime() is StaticLifetime()
    True
    """

    name: str
    _instance: StaticLifetime | None = None
    _contexts: dict[Store, ContextLifetime]
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
                self._contexts = {}
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
            if store not in self._contexts:
                self._contexts[store] = ContextLifetime(store, name=self.name)
            self._contexts[store].add_key(*keys)

    def add_proxy(self, *proxies: Proxy[Any]) -> None:
        """See :meth:`Lifetime.add_proxy`; opens the proxies' stores."""
        for reference in [reference_of(proxy) for proxy in proxies]:
            self.add_key(reference.key, store=get_or_create_store(reference.store))

    @override
    def active_count(self) -> int:
        with self._lock:
            return sum(each.active_count() for each in self._contexts.values())

    def close(self, *, close_stores: bool = False) -> None:
        """See :meth:`Lifetime.close`. For good: there is one per process."""
        with self._lock:
            contexts, self._contexts = self._contexts, {}
            self._done = True
        failed: list[DaskrefError] = []
        for context in contexts.values():
            try:
                context.close(close_stores=close_stores)
            except DaskrefError as exc:
                failed.append(exc)
        if failed:
            raise failed[0]

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
        The argument for :func:`atexit.unregister`.
    """
    pid = os.getpid()

    def close() -> None:
        if os.getpid() == pid:
            close_quietly(lifetime, close_stores)

    atexit.register(close)
    return close
