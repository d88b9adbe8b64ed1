"""Values that go in-band, as plain Dask sends them: why, how many, and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from daskref.background import make_lock
from daskref.exceptions import DaskrefError
from daskref.store.metrics import INBAND, Counters

logger = logging.getLogger(__name__)


class InBand:
    """Why large values of one process go in-band: counted, and each reason told once.

    Parameters
    ----------
    counters
        What to count in.

    Notes
    -----
    Thread-safe. Reasons go to the log, and as events to whoever listens.
    """

    #: Why this process cannot put and get at all, if that is so.
    unseen: DaskrefError | None
    #: Whether there is a place now for what this process puts: each of its clients
    #: says so with :meth:`set_place`.
    has_place: bool
    _without_place: set[object]
    _failed: bool
    _listeners: list[Callable[[dict[str, Any]], None]]

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.unseen = None
        self.has_place = True
        self._without_place = set()
        self._place_lock = make_lock()
        self._failed = False
        self._listeners = []

    def count(self, reason: str, obj: Any) -> None:
        """Count a large value that goes in-band, and tell of the first of a kind.

        Parameters
        ----------
        reason
            One of :data:`daskref.store.metrics.INBAND`.
        obj
            The value.
        """
        if self._counters.add_inband(reason):
            cls = type(obj)
            logger.info(
                "A large value of type %s.%s goes in-band, as plain Dask sends it: %s. "
                "Others are only counted (daskref.stats).",
                cls.__module__,
                cls.__qualname__,
                INBAND[reason],
            )

    def set_place(self, client: object, there: bool) -> None:
        """Put nothing while one of this process's clients has no place for it.

        Parameters
        ----------
        client
            Which one; by its identity.
        there
            Whether it has: there is a host that keeps what is put.
        """
        with self._place_lock:
            if there:
                self._without_place.discard(client)
            else:
                self._without_place.add(client)
            self.has_place = not self._without_place

    def lose_sight(self, exc: DaskrefError) -> None:
        """Put nothing any more, for good: others send values in-band."""
        self.unseen = exc
        logger.warning(
            "This process cannot see the cluster's store, so its values travel "
            "in-band, as plain Dask sends them. %s",
            exc,
        )
        self._tell("unreachable", exc)

    def fail(self, exc: DaskrefError) -> None:
        """Count a value that the store failed to take."""
        self._counters.add("fallbacks")
        self._counters.add_inband("failed")
        if not self._failed:
            self._failed = True
            logger.warning(
                "The store failed, so values travel in-band, as plain Dask sends them "
                "(daskref.on-failure: raise makes this an error). Further failures are "
                "only counted. %s",
                exc,
            )
            self._tell("fallback", exc)

    def listen(self, listener: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Have this process's events told, each kind of them once.

        Parameters
        ----------
        listener
            (event) -> None: for Dask's log; called in any thread. Of several in a
            process, the first is.

        Returns
        -------
        callable
            () -> None: tell it no more.
        """
        self._listeners.append(listener)
        if self.unseen is not None and self._listeners == [listener]:
            self._tell("unreachable", self.unseen)
        return lambda: self._listeners.remove(listener)

    def _tell(self, action: str, exc: DaskrefError) -> None:
        for listener in self._listeners[:1]:
            listener({"action": action, "reason": str(exc)})
