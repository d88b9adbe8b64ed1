"""Large values that travel in Dask's messages: reasons, counts, log messages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from daskref.background import make_lock
from daskref.exceptions import DaskrefError
from daskref.store.metrics import INBAND, Counters

logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class InBand:
    """Count the large values of one process that go in-band; log each reason once.

    Notes
    -----
    Thread-safe. Reasons go to the log, and as events to the first listener.
    """

    _counters: Counters
    #: Why this process cannot reach the store; ``None`` if it can.
    unseen: DaskrefError | None = None
    #: Whether there is a host for what this process puts; see :meth:`set_place`.
    has_place: bool = True
    _without_place: set[object] = field(default_factory=set)
    _place_lock: Lock = field(default_factory=make_lock)
    _failed: bool = False
    _listeners: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)

    def count(self, reason: str, obj: Any) -> None:
        """Count a value by a reason of :data:`INBAND`; log the first of each reason."""
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
        """Let this process put only while each of its clients has a host for values."""
        with self._place_lock:
            if there:
                self._without_place.discard(client)
            else:
                self._without_place.add(client)
            self.has_place = not self._without_place

    def lose_sight(self, exc: DaskrefError) -> None:
        """Stop all puts for good: other processes send this one values in-band."""
        self.unseen = exc
        logger.warning(
            "This process cannot see the cluster's store, so its values travel "
            "in-band, as plain Dask sends them. %s",
            exc,
        )
        self._tell("unreachable", exc)

    def fail(self, exc: DaskrefError) -> None:
        """Count a value that the store failed to take; log the first failure."""
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
        """Call a listener with each event of this process, once per kind.

        Parameters
        ----------
        listener
            ``(event) -> None``, called in any thread. Of several listeners in one
            process, only the first is called; an earlier loss of sight is repeated for
            it.

        Returns
        -------
        callable
            ``() -> None``: remove the listener.
        """
        self._listeners.append(listener)
        if self.unseen is not None and self._listeners == [listener]:
            self._tell("unreachable", self.unseen)
        return lambda: self._listeners.remove(listener)

    def _tell(self, action: str, exc: DaskrefError) -> None:
        for listener in self._listeners[:1]:
            listener({"action": action, "reason": str(exc)})
