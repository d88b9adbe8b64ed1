"""Lifetimes: who deletes what is put into an explicit store, and when.

An object that is bound to a lifetime is deleted when the lifetime ends. All lifetimes
have ProxyStore's protocol, :class:`Lifetime`, and are given to ``put`` and ``proxy`` of
a store, or are told keys and proxies with :meth:`~ContextLifetime.add_key` and
:meth:`~ContextLifetime.add_proxy`.

Known limits
------------
Nothing here runs when a process is killed. Leases are kept where the objects are, so
that others delete what has expired; objects of a context or of a process that was
killed stay until the store's session ends.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from daskref.connectors.base import Key
from daskref.exceptions import DaskrefError, LifetimeError
from daskref.places import (
    config_of,
    registered,
    same_place,
    secrets_of,
    tell,
)
from daskref.proxy import Proxy, get_factory
from daskref.reference import Reference, StoreConfig
from daskref.store import Store, StoreFactory, get_or_create_store

logger = logging.getLogger(__name__)

#: Seconds from now, or until when.
Expiry = float | timedelta | datetime


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
        TypeError
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
    TypeError
        If it is something else: a proxy with a factory of the user's, or one with an
        owner, who decides when its object goes.
    """
    factory = get_factory(proxy)
    if not isinstance(factory, StoreFactory):
        raise TypeError(
            "a lifetime takes proxies that a store made, not one with a "
            f"{type(factory).__name__}"
        )
    return factory.reference


class ContextLifetime:
    """Delete objects at the end of a block.

    Parameters
    ----------
    store
        Where the objects are.
    name
        For messages; unique by default.

    Notes
    -----
    Thread-safe. See :class:`Lifetime` for the methods. The objects are deleted by
    this process: if it is killed, they stay for as long as the store does.

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
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        state = "ended" if self._done else f"{len(self._keys)} objects"
        return f"<{type(self).__name__} {self.name} of {self.store!r}, {state}>"

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        """See :meth:`Lifetime.add_key`."""
        if store is not None:
            self._check_place(config_of(store))
        with self._lock:
            if self._done:
                raise LifetimeError(self.name, "nothing can be bound to it any more")
            self._keys.update(keys)
        logger.debug("LIFETIME %s binds %s", self.name, keys)

    def add_proxy(self, *proxies: Proxy[Any]) -> None:
        """See :meth:`Lifetime.add_proxy`."""
        references = [reference_of(proxy) for proxy in proxies]
        for reference in references:
            self._check_place(reference.store)
        self.add_key(*(reference.key for reference in references))

    def active_count(self) -> int:
        """See :meth:`Lifetime.active_count`."""
        return len(self._keys)

    def close(self, *, close_stores: bool = False) -> None:
        """See :meth:`Lifetime.close`."""
        with self._lock:
            keys, self._keys = self._keys, set()
            ended, self._done = self._done, True
        if ended:
            return
        try:
            _evict_all(self.store, keys)
        finally:
            if close_stores:
                self.store.close()
        logger.debug("LIFETIME %s ended, %d objects evicted", self.name, len(keys))

    def done(self) -> bool:
        """See :meth:`Lifetime.done`."""
        return self._done

    def _check_place(self, config: StoreConfig) -> None:
        if not same_place(config, config_of(self.store)):
            raise ValueError(
                f"{self!r} deletes from its own store, the object is in "
                f"{config.name!r}: make a lifetime for that store"
            )


def _evict_all(store: Store, keys: Iterable[Key]) -> None:
    """Delete objects; raise the first error when all have been tried."""
    failed: DaskrefError | None = None
    for key in keys:
        try:
            store.evict(key)
        except DaskrefError as exc:
            failed = failed or exc
    if failed is not None:
        raise failed


def _timestamp(expiry: Expiry, start: float) -> float:
    """Return seconds since the epoch; seconds and durations count from *start*."""
    if isinstance(expiry, datetime):
        return expiry.timestamp()
    if isinstance(expiry, timedelta):
        return start + expiry.total_seconds()
    if isinstance(expiry, int | float) and not isinstance(expiry, bool):
        return start + expiry
    raise TypeError(
        "expiry must be seconds, a timedelta or a datetime, not "
        f"{type(expiry).__name__}"
    )


class LeaseLifetime(ContextLifetime):
    """Delete objects at a point in time, whether or not this process lives to see it.

    Parameters
    ----------
    store
        Where the objects are.
    expiry
        Seconds or a timedelta from now, or a datetime (in local time, if it names no
        zone). In the past: what is bound is deleted at once.
    name
        For messages; unique by default.

    Notes
    -----
    Thread-safe. See :class:`Lifetime` for the methods. Two keep the time:

    - this process, in a thread that does not hold up its exit, deletes at expiry;
    - the store: each object has a lease there. If this process is gone, whoever
      sweeps the store next (the scheduler's reconciliation in the store of a cluster,
      another lease that ends in this store, ``connector.sweep()``) deletes what has
      expired.

    A connector without leases (``renew`` returns False) leaves this process alone with
    it: such objects are deleted at expiry or when the process exits, whatever is first,
    and stay if it is killed.

    Examples
    --------
    >>> from daskref.connectors import LocalConnector
    >>> with Store("example", LocalConnector()) as store:
    ...     lifetime = LeaseLifetime(store, expiry=60)
    ...     lifetime.add_key(store.put("some text"))
    ...     lifetime.extend(timedelta(hours=1))
    ...     lifetime.active_count(), lifetime.done()
    ...     lifetime.close()
    (1, False)
    """

    _expiry: float
    _timer: threading.Timer | None
    _unleased: bool

    def __init__(
        self, store: Store, expiry: Expiry, *, name: str | None = None
    ) -> None:
        super().__init__(store, name=name)
        self._expiry = _timestamp(expiry, time.time())
        self._timer = None
        self._unleased = False
        # held over renewals, so that the last one writes the latest expiry
        self._renewal = threading.Lock()
        self._start_timer()

    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        """See :meth:`Lifetime.add_key`; writes a lease for each. Blocks."""
        super().add_key(*keys, store=store)
        self._renew(keys)

    def extend(self, expiry: Expiry) -> None:
        """Let the lease end later.

        Parameters
        ----------
        expiry
            Seconds or a timedelta are added to what it is. A datetime takes its place,
            earlier or later.

        Raises
        ------
        LifetimeError
            If the lifetime has ended.
        ConnectorError
            If a lease could not be written. The lifetime is extended; extend it by 0
            to write the leases again.
        """
        with self._lock:
            if self._done:
                raise LifetimeError(self.name, "it cannot be extended any more")
            self._expiry = _timestamp(expiry, self._expiry)
            keys = list(self._keys)
        self._start_timer()
        self._renew(keys)

    def close(self, *, close_stores: bool = False) -> None:
        """See :meth:`Lifetime.close`. Sweeps what else has expired in the store."""
        if self._timer is not None:
            self._timer.cancel()
        atexit.unregister(self._at_exit)
        if not self._done:
            sweep = getattr(self.store.connector, "sweep", None)
            if sweep is not None:
                try:
                    sweep()
                except DaskrefError:  # its own objects' turn is next, and they raise
                    logger.debug("LIFETIME %s could not sweep", self.name)
        super().close(close_stores=close_stores)

    def _renew(self, keys: Iterable[Key]) -> None:
        renew: Callable[[Key, float], bool] | None
        renew = getattr(self.store.connector, "renew", None)
        with self._renewal:
            for key in keys:
                left = max(0.0, self._expiry - time.time())
                if renew is None or not renew(key, left):
                    self._keep_alone()

    def _keep_alone(self) -> None:
        with self._lock:
            if self._unleased or self._done:
                return
            self._unleased = True
        atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        if self._pid == os.getpid():
            self._close_quietly()

    def _start_timer(self) -> None:
        with self._lock:
            if self._done:
                return
            if self._timer is not None:
                self._timer.cancel()
            # a timer's own limit is a few hundred years
            left = min(max(0.0, self._expiry - time.time()), 1e6)
            self._timer = threading.Timer(left, self._due)
            self._timer.name = "daskref-lease"
            self._timer.daemon = True
            self._timer.start()

    def _due(self) -> None:
        if time.time() < self._expiry:  # extended meanwhile, or the clock was set
            self._start_timer()
        else:
            self._close_quietly()

    def _close_quietly(self) -> None:
        try:
            self.close()
        except DaskrefError as exc:
            logger.warning("Lease %s ended, but not all is deleted: %s", self.name, exc)


class StaticLifetime:
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
                self._lock = threading.Lock()
                register_lifetime_atexit(self)
            return cls._instance

    def __repr__(self) -> str:
        state = "ended" if self._done else f"{self.active_count()} objects"
        return f"<StaticLifetime of process {self._pid}, {state}>"

    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        """See :meth:`Lifetime.add_key`."""
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

    def active_count(self) -> int:
        """See :meth:`Lifetime.active_count`."""
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
                _evict_all(store, keys)
            except DaskrefError as exc:
                failed = failed or exc
            if close_stores:
                store.close()
        if failed is not None:
            raise failed

    def done(self) -> bool:
        """See :meth:`Lifetime.done`."""
        return self._done


_static_lock = threading.Lock()


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


class TaskLifetime:
    """Delete objects when Dask forgets a key.

    Parameters
    ----------
    client
        A client of daskref.
    future
        Of the key. It is not held: the key lives as it would without this.

    Raises
    ------
    TypeError
        If the client is a plain Dask client, or *future* is no future.

    Notes
    -----
    Thread-safe. See :class:`Lifetime` for the methods; :meth:`add_key` needs the
    *store*, which may be any that the scheduler can reach.

    What is bound belongs to the scheduler from then on: it survives this client, and
    the loss and recomputation of the key's result. It goes when the last client has
    released the key and no task needs it; when the scheduler restarts or ends; at
    once, if the key was forgotten already. What two keys are bound to goes with the
    last. If the scheduler is killed, the objects stay for as long as the store does.

    :meth:`done` becomes true when this client hears that the key was forgotten.
    """

    name: str
    _done: bool
    _bound: set[tuple[Any, ...]]

    def __init__(self, client: Any, future: Any, *, name: str | None = None) -> None:
        attachment = getattr(client, "_daskref", None)
        if attachment is None:
            raise TypeError(
                f"{client!r} is a plain Dask client: use daskref.Client, or "
                "daskref.enable"
            )
        if not hasattr(future, "key") or not hasattr(future, "cancelled"):
            raise TypeError(
                f"TaskLifetime() takes a future, not {type(future).__name__}"
            )
        self.name = name if name is not None else f"task-{future.key}"
        self._attachment = attachment
        self._key = future.key
        self._bound = set()
        self._done = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "ended" if self._done else f"{len(self._bound)} objects"
        return f"<TaskLifetime of {self._key!r}, {state}>"

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        """See :meth:`Lifetime.add_key`."""
        if store is None:
            raise ValueError("TaskLifetime.add_key() needs the store of the keys")
        self._bind([(key, 0) for key in keys], config_of(store), secrets_of(store))

    def add_proxy(self, *proxies: Proxy[Any]) -> None:
        """See :meth:`Lifetime.add_proxy`."""
        for reference in [reference_of(proxy) for proxy in proxies]:
            secrets = secrets_of(registered(reference.store))
            self._bind([(reference.key, reference.nbytes)], reference.store, secrets)

    def active_count(self) -> int:
        """See :meth:`Lifetime.active_count`."""
        return len(self._bound)

    def close(self, *, close_stores: bool = False) -> None:
        """Delete what is bound now, whatever becomes of the key.

        Parameters
        ----------
        close_stores
            Not used: the scheduler closes what it opens.
        """
        with self._lock:
            bound, self._bound = self._bound, set()
            self._done = True
        if bound:
            self._attachment.send(
                {
                    "op": "daskref-unbind",
                    "task": self._key,
                    "objects": list(bound),
                }
            )

    def done(self) -> bool:
        """See :meth:`Lifetime.done`."""
        return self._done

    def end(self) -> None:
        """Take note that the key was forgotten, and what was bound is deleted."""
        with self._lock:
            self._bound = set()
            self._done = True

    def _bind(
        self,
        objects: list[tuple[Key, int]],
        config: StoreConfig,
        secrets: dict[str, Any],
    ) -> None:
        session = self._attachment.session.info.store
        told = [tell(key, n, config, session, secrets) for key, n in objects]
        with self._lock:
            if self._done:
                raise LifetimeError(self.name, "nothing can be bound to it any more")
            self._bound |= {obj[:2] for obj in told}
            self._attachment.lifetimes.add(self._key, self)
        self._attachment.send(
            {"op": "daskref-bind", "task": self._key, "objects": told}
        )


class BoundLifetimes:
    """The lifetimes of one client that have something bound to a Dask key."""

    _by_key: dict[Any, weakref.WeakSet[TaskLifetime]]

    def __init__(self) -> None:
        self._by_key = {}

    def add(self, key: Any, lifetime: TaskLifetime) -> None:
        """Tell a lifetime when the key was forgotten."""
        self._by_key.setdefault(key, weakref.WeakSet()).add(lifetime)

    def end(self, key: Any) -> None:
        """Take note that a key was forgotten."""
        for lifetime in self._by_key.pop(key, ()):
            lifetime.end()
