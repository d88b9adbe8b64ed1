"""Lifetimes that end with a Dask key."""

from __future__ import annotations

from typing import Any

from daskref.annotations import override
from daskref.background import make_lock
from daskref.connectors.base import Key
from daskref.exceptions import LifetimeError
from daskref.lifetimes.base import Lifetime, reference_of
from daskref.objects.reference import StoreConfig
from daskref.proxy.proxy import Proxy
from daskref.store.registry import same_place
from daskref.store.store import Store


class TaskLifetime(Lifetime):
    """Delete objects when Dask forgets a key.

    Parameters
    ----------
    client
        A client of daskref.
    future
        The future of the key, which is not held: the key lives as it would without
        this.

    Raises
    ------
    TypeError
        If the client is a plain Dask client, or *future* is no future.

    Notes
    -----
    Thread-safe. See :class:`Lifetime` for the methods; :meth:`add_key` needs the
    *store*, which may be any that this process can reach.

    A thread of the client deletes the bound objects when the scheduler says that the
    key was forgotten: the last client has released it and no task needs it; when the
    scheduler restarts or ends; at once, if the key was forgotten already. Loss and
    recomputation of the key's result do not count. An object that one client binds to
    two keys goes with the last.

    Meanwhile the client renews a lease of each object (``daskref.lease``). If the
    client is killed, or leaves while others need the key, the objects go when their
    leases have ended: then this process deletes them, or, without it, the next sweep of
    the store (see :class:`LeaseLifetime`). In a store without leases they stay if the
    client is killed.

    :meth:`done` becomes true when this client hears that the key was forgotten, or
    leaves.
    """

    name: str
    _done: bool
    _keys: set[Key]
    _in_session: dict[Key, int]
    _watch: int | None
    _watching: bool

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
        self._task = future.key
        self._keys = set()
        self._in_session = {}
        self._watch = None
        self._watching = False
        self._done = False
        self._lock = make_lock()

    def __repr__(self) -> str:
        state = "ended" if self._done else f"{self.active_count()} objects"
        return f"<TaskLifetime of {self._task!r}, {state}>"

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @override
    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        if store is None:
            raise ValueError("TaskLifetime.add_key() needs the store of the keys")
        self._bind(store.config(), dict.fromkeys(keys, 0))

    @override
    def add_proxy(self, *proxies: Proxy[Any]) -> None:
        for reference in [reference_of(proxy) for proxy in proxies]:
            self._bind(reference.store, {reference.key: reference.nbytes})

    @override
    def active_count(self) -> int:
        return len(self._keys) + len(self._in_session)

    def close(self, *, close_stores: bool = False) -> None:
        """Delete what is bound, in a thread, whether or not the key was forgotten."""
        in_session = self._end(True)
        if self._watch is not None:
            self._attachment.watches.remove(self._watch)
        if in_session:
            self._tell_scheduler(in_session, bound=False)

    @override
    def done(self) -> bool:
        return self._done

    def _end(self, heard: bool) -> dict[Key, int]:
        """Release what is bound; return the objects that the scheduler holds."""
        with self._lock:
            keys, self._keys = self._keys, set()
            in_session, self._in_session = self._in_session, {}
            self._done = True
        self._attachment.bound.release(self, keys, left=not heard)
        return in_session

    def _bind(self, store: StoreConfig, keys: dict[Key, int]) -> None:
        """Bind objects of a store; their sizes are in bytes."""
        attachment = self._attachment
        in_session = same_place(store, attachment.session.info.store)
        with self._lock:
            if self._done:
                raise LifetimeError(self.name, "nothing can be bound to it any more")
            if in_session:
                self._in_session |= keys
            else:
                self._keys |= keys.keys()
                attachment.bound.hold(self, store, keys)
        if in_session:
            self._tell_scheduler(keys, bound=True)
        # after that, or a key that is forgotten already would end it first
        with self._lock:
            first, self._watching = not self._watching, True
        if first:
            watches = attachment.watches
            self._watch = watches.add([self._task], "forgotten", self._end)

    def _tell_scheduler(self, keys: dict[Key, int], bound: bool) -> None:
        """Let the scheduler hold objects of the session's own store for the key."""
        self._attachment.send(
            {
                "op": "daskref-bind",
                "task": self._task,
                "objects": list(keys.items()),
                "bound": bound,
            }
        )
