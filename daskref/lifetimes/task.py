"""Lifetimes that end with a Dask key."""

from __future__ import annotations

import weakref
from typing import Any

from daskref.annotations import override
from daskref.background import make_lock
from daskref.connectors.base import Key
from daskref.exceptions import LifetimeError
from daskref.lifetimes.base import Lifetime, reference_of
from daskref.objects.reference import StoreConfig
from daskref.proxy.proxy import Proxy
from daskref.store.registry import config_of, registered, secrets_of, tell
from daskref.store.store import Store


class TaskLifetime(Lifetime):
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
        self._lock = make_lock()

    def __repr__(self) -> str:
        state = "ended" if self._done else f"{len(self._bound)} objects"
        return f"<TaskLifetime of {self._key!r}, {state}>"

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @override
    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        if store is None:
            raise ValueError("TaskLifetime.add_key() needs the store of the keys")
        self._bind([(key, 0) for key in keys], config_of(store), secrets_of(store))

    @override
    def add_proxy(self, *proxies: Proxy[Any]) -> None:
        for reference in [reference_of(proxy) for proxy in proxies]:
            secrets = secrets_of(registered(reference.store))
            self._bind([(reference.key, reference.nbytes)], reference.store, secrets)

    @override
    def active_count(self) -> int:
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

    @override
    def done(self) -> bool:
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
