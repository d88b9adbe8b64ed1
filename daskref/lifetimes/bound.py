"""Objects that are bound to Dask's keys, in stores of the user's."""

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

#: How often a deletion that failed is tried in all.
ATTEMPTS = 5


@dataclass(eq=False, slots=True)
class _Object:
    """One object, and what it is bound to."""

    store: StoreConfig
    holders: set[object] = field(default_factory=set)
    #: When its lease is renewed, or, if nothing holds it any more, it is deleted.
    when: float = 0.0
    failures: int = 0


class BoundObjects:
    """The objects of one client that live as long as Dask's keys.

    A thread keeps them: it renews their leases, three times per lease, where connectors
    have leases, and deletes what is not held any more. It runs while there are any.

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
        # held over the work, so that who works as well waits for what is under way
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
        """Let a holder go of objects; what nothing holds now is deleted.

        Parameters
        ----------
        holder
            Silent if it holds none of them.
        left
            Whether nobody will hear when they are not needed any more: their leases
            end then, in place of them at once.
        """
        with self._lock:
            for key in keys:
                if (obj := self._objects.get(key)) is not None:
                    obj.holders.discard(holder)
                    if not obj.holders:
                        obj.when = self._clock() + (self._lease if left else 0.0)
        self._background.call()

    def work(self) -> float | None:
        """Renew and delete what it is time for. Blocks.

        Returns
        -------
        float or None
            Seconds until there is more to do; ``None`` if there are no objects.
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
