"""Lifetimes that end with a block."""

from __future__ import annotations

import logging
import os
import uuid
from typing import Any

from daskref.annotations import override
from daskref.background import make_lock
from daskref.connectors.base import Key
from daskref.exceptions import DaskrefError, LifetimeError
from daskref.lifetimes.base import Lifetime, reference_of
from daskref.objects.reference import StoreConfig
from daskref.proxy.proxy import Proxy
from daskref.store.registry import same_place
from daskref.store.store import Store

logger = logging.getLogger(__name__)


class ContextLifetime(Lifetime):
    """Delete objects at the end of a block.

    Parameters
    ----------
    store
        The store of the objects.
    name
        For messages; unique by default.

    Notes
    -----
    Thread-safe. See :class:`Lifetime` for the methods. This process deletes the
    objects: if it is killed, they stay for as long as the store does.

    Examples
    --------
    >>> from daskref.connectors import LocalConnector
    >>> with Store("example", LocalConnector()) as store:
    ...     with ContextLifetime(store) as lifetime:
    ...         key = store.put("some text")
    ...         lifetime.add_key(key)
    ...         store.exists(key)
    ...     store.exists(key)
    True
    False
    """

    store: Store
    name: str
    _keys: set[Key]
    _done: bool

    def __init__(self, store: Store, *, name: str | None = None) -> None:
        self.store = store
        self.name = name if name is not None else uuid.uuid4().hex
        self._keys = set()
        self._done = False
        self._lock = make_lock()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        state = "ended" if self._done else f"{len(self._keys)} objects"
        return f"<{type(self).__name__} {self.name} of {self.store!r}, {state}>"

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @override
    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        if store is not None:
            self._check_place(store.config())
        with self._lock:
            if self._done:
                raise LifetimeError(self.name, "nothing can be bound to it any more")
            self._keys.update(keys)
        logger.debug("LIFETIME %s binds %s", self.name, keys)

    @override
    def add_proxy(self, *proxies: Proxy[Any]) -> None:
        references = [reference_of(proxy) for proxy in proxies]
        for reference in references:
            self._check_place(reference.store)
        self.add_key(*(reference.key for reference in references))

    @override
    def active_count(self) -> int:
        return len(self._keys)

    @override
    def close(self, *, close_stores: bool = False) -> None:
        with self._lock:
            keys, self._keys = self._keys, set()
            ended, self._done = self._done, True
        if ended:
            return
        failed: list[DaskrefError] = []
        try:
            for key in keys:
                try:
                    self.store.evict(key)
                except DaskrefError as exc:
                    failed.append(exc)
        finally:
            if close_stores:
                self.store.close()
        logger.debug("LIFETIME %s ended, %d objects evicted", self.name, len(keys))
        if failed:
            raise failed[0]

    @override
    def done(self) -> bool:
        return self._done

    def _check_place(self, config: StoreConfig) -> None:
        if not same_place(config, self.store.config()):
            raise ValueError(
                f"{self!r} deletes from its own store, the object is in "
                f"{config.name!r}: make a lifetime for that store"
            )
