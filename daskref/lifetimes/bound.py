"""Objects in users' own stores that are bound to Dask's keys."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from daskref.background import Background, forget_in_child, make_lock
from daskref.connectors.base import Key
from daskref.objects.reference import StoreConfig
from daskref.store.registry import evict_from, opened

logger = logging.getLogger(__name__)

#: Attempts at a deletion in all.
ATTEMPTS = 5


@dataclass(eq=False, slots=True)
class _Object:
    """One object, and what holds it."""

    store: StoreConfig
    holders: set[object] = field(default_factory=set)
    #: When its lease is renewed or, without holders, the object is deleted.
    when: float = 0.0
    failures: int = 0


class BoundObjects:
    """The objects of one client that live as long as Dask's keys.

    A thread renews their leases, three times per lease, in connectors that have leases,
    and deletes objects without a holder. It runs while there are any objects.

    Parameters
    ----------
    lease
        Seconds: the length of a lease.
    pause
        Seconds until a deletion that failed is tried again.
    clock
        ``() -> seconds``.

    Notes
    -----
    Thread-safe. The lock guards bookkeeping only.
    """

    _objects: dict[Key, _Object]

    def __init__(
        self, lease: float, pause: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lease = lease
        self._pause = pause
        self._clock = clock
        self._lock = make_lock()
        # held during the work, so that a second worker waits for the first
        self._working = make_lock()
        self._background = Background(self.work, "daskref-task-lifetimes")
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have no objects, in a forked child: they are the parent's."""
        self._objects = {}

    def __len__(self) -> int:
        return len(self._objects)

    def hold(self, holder: object, store: StoreConfig, keys: Iterable[Key]) -> None:
        """Let a holder hold objects of a store."""
        with self._lock:
            for key in keys:
                obj = self._objects.setdefault(key, _Object(store))
                obj.holders.add(holder)
                obj.when, obj.failures = 0.0, 0
        self._background.call()

    def release(
        self, holder: object, keys: Iterable[Key], *, left: bool = False
    ) -> None:
        """Let a holder release objects; those without a holder are deleted.

        Silent for objects that the holder does not hold. *left*: whether this process
        leaves the cluster: objects are deleted when their leases end, instead of at
        once.
        """
        with self._lock:
            for key in keys:
                if (obj := self._objects.get(key)) is not None:
                    obj.holders.discard(holder)
                    if not obj.holders:
                        obj.when = self._clock() + (self._lease if left else 0.0)
        self._background.call()

    def work(self) -> float | None:
        """Renew and delete what is due. Blocks.

        Returns the seconds until more is due; ``None`` if there are no objects.
        """
        with self._working:
            for key, obj in self._due():
                with self._lock:
                    held = bool(obj.holders)
                    obj.when = self._clock() + self._lease / 3
                    if not held and self._objects.pop(key, None) is None:
                        continue
                if held:
                    self._renew(key, obj)
                else:
                    self._evict(key, obj)
        with self._lock:
            times = [obj.when for obj in self._objects.values()]
        return max(0.0, min(times) - self._clock()) if times else None

    def _due(self) -> list[tuple[Key, _Object]]:
        with self._lock:
            now = self._clock()
            return [(k, obj) for k, obj in self._objects.items() if obj.when <= now]

    def _renew(self, key: Key, obj: _Object) -> None:
        try:
            with opened(obj.store) as store:
                store.connector.renew(key, self._lease)
        except Exception:  # whatever a user's connector raises
            logger.debug("Could not renew the lease of %s", key, exc_info=True)

    def _evict(self, key: Key, obj: _Object) -> None:
        try:
            evict_from(obj.store, key)
        except Exception as exc:  # whatever a user's connector raises
            obj.failures += 1
            if obj.failures == ATTEMPTS:
                logger.warning(
                    "%s, which was bound to a key of Dask's, could not be deleted in "
                    "%d attempts and stays in its store: %s",
                    key,
                    ATTEMPTS,
                    exc,
                )
                return
            logger.debug("Could not delete %s yet: %r", key, exc)
            with self._lock:
                obj.when = self._clock() + self._pause
                self._objects.setdefault(key, obj)
