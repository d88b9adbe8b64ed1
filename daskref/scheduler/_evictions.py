"""Deletion from the scheduler's own store, in batches, off the event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from daskref.cluster.session import ClusterStore
from daskref.connectors.base import Key
from daskref.exceptions import ConnectorUnavailableError, DaskrefError
from daskref.store import ObjectStore

logger = logging.getLogger(__name__)

#: Of one file: others may well be deleted.
_REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY})


class Outage:
    """An outage of the store: logged once, until the store is back.

    Thread-safe; at worst, two threads that fail at the same time both log it.
    """

    #: The last file that was logged as refused, and whether all have been since.
    _refused: str | None
    _refusing: bool

    def __init__(self) -> None:
        self._told = False
        self._refused = None
        self._refusing = False

    def tell(self, what: str, failure: Exception) -> None:
        """Log a failure: daskref's errors as a text, others with a traceback.

        A file that may not be deleted is no outage: it is logged once, by its name.
        """
        cause = failure.__cause__
        if isinstance(cause, OSError) and cause.errno in _REFUSALS and cause.filename:
            if not self._refusing and cause.filename != self._refused:
                self._refusing = True
                self._refused = cause.filename
                logger.warning("%s: %s", what, cause)
        elif isinstance(failure, ConnectorUnavailableError):
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
        """Record that the store has just worked."""
        self._refusing = False
        if self._told:
            self._told = False
            logger.info("The store is back.")


def evict_each(store: ObjectStore, keys: Iterable[Key], outage: Outage) -> list[Key]:
    """Delete objects; return those that could not be deleted. Blocks.

    A failure does not keep the other objects, and is logged.
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
    """A queue of objects to delete. For the event loop; deletes in threads."""

    _session: ClusterStore
    #: ``(keys) -> keys``: delete objects, and return those that failed; blocks.
    _evict: Callable[[list[Key]], list[Key]]
    #: ``(keys, failed) -> None``: called afterwards.
    _done: Callable[[list[Key], list[Key]], None]
    outage: Outage = field(default_factory=Outage)
    _queue: list[Key] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None
    _closed: bool = False

    def add(self, keys: list[Key]) -> None:
        """Delete objects soon."""
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
        """Delete expired leases, and dead processes' objects after a grace period.

        *known*: keys that are held, or being deleted; *grace*: seconds.
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
        """Wait until the queue is empty."""
        while self._task is not None:
            await self._task

    async def close(self) -> None:
        """Empty the queue before the session is left; ignore later objects."""
        await self.finish()
        self._closed = True
