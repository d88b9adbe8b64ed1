"""Deleting from the scheduler's own store: in batches, off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from daskref.cluster.session import ClusterStore
from daskref.connectors.base import Key
from daskref.exceptions import ConnectorUnavailableError, DaskrefError
from daskref.store import ObjectStore

logger = logging.getLogger(__name__)


class Outage:
    """Whether the store is out of reach: said once, until it is back.

    Notes
    -----
    Thread-safe; at worst, two threads that fail at once both say it.
    """

    def __init__(self) -> None:
        self._told = False

    def tell(self, what: str, failure: Exception) -> None:
        """Log that something failed: our errors say why, others need a traceback.

        Parameters
        ----------
        what
            What failed, a sentence without its end, and what is done about it.
        failure
            Why.
        """
        if isinstance(failure, ConnectorUnavailableError):
            if not self._told:
                self._told = True
                logger.warning(
                    "The store is out of reach, so what nobody holds is not deleted. "
                    "It is tried again from time to time, and not told again until "
                    "the store is back: %s",
                    failure,
                )
        elif isinstance(failure, DaskrefError):
            logger.warning("%s: %s", what, failure)
        else:
            logger.error(what, exc_info=failure)

    def is_over(self) -> None:
        """Take note that the store has just done something."""
        if self._told:
            self._told = False
            logger.info("The store is back.")


def evict_each(store: ObjectStore, keys: Iterable[Key], outage: Outage) -> list[Key]:
    """Delete objects; blocks. One that cannot be deleted does not keep the others.

    Returns
    -------
    list of Key
        What could not be deleted; the log says why.
    """
    failed: list[Key] = []
    failure: Exception | None = None
    for key in keys:
        try:
            store.evict(key)
        except Exception as exc:
            failed.append(key)
            failure = exc
        else:
            outage.is_over()
    if failure is not None:
        outage.tell(
            f"{len(failed)} objects could not be deleted; the next reconciliation "
            "tries again",
            failure,
        )
    return failed


@dataclass(eq=False, repr=False)
class Evictions:
    """Objects that are to be deleted.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop. It deletes in threads.
    """

    _session: ClusterStore
    #: ``(keys) -> keys``: delete them, and return what could not be; blocks.
    _evict: Callable[[list[Key]], list[Key]]
    #: ``(keys, failed) -> None``: called when that has ended.
    _done: Callable[[list[Key], list[Key]], None]
    #: Says what fails.
    outage: Outage = field(default_factory=Outage)
    _queue: list[Key] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None
    _closed: bool = False

    def add(self, keys: list[Key]) -> None:
        """Delete objects, soon."""
        if self._closed or not keys:
            return
        self._queue += keys
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._queue:
            keys, self._queue = self._queue, []
            try:
                failed = await self._session.run(self._evict, keys)
            except Exception as exc:
                what = "Eviction failed; the next reconciliation tries again"
                self.outage.tell(what, exc)
                failed = keys
            self._done(keys, failed)
        self._task = None

    async def sweep(self, known: Iterable[Key], grace: float) -> None:
        """Delete expired leases, and objects of dead processes.

        Parameters
        ----------
        known
            What is held, or is being deleted.
        grace
            Seconds for which an object is left alone.
        """
        assert self._session.store is not None
        sweep = self._session.store.connector.sweep
        try:
            swept = await self._session.run(sweep, list(known), grace)
        except Exception as exc:
            self.outage.tell("Reconciliation failed; it is tried again", exc)
            return
        self.outage.is_over()
        if swept:
            self._session.counters.add("evictions", len(swept))
            logger.info("Swept %d objects that nobody held", len(swept))

    async def finish(self) -> None:
        """Wait until all is deleted."""
        while self._task is not None:
            await self._task

    async def close(self) -> None:
        """Finish, before the session is left; what comes later goes with it."""
        await self.finish()
        self._closed = True
