"""Deleting from the scheduler's own store: in batches, off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator

from daskref.connectors.base import Key
from daskref.objectstore import ObjectStore
from daskref.session import Session

logger = logging.getLogger(__name__)


def evict_each(store: ObjectStore, keys: Iterable[Key]) -> list[Key]:
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
    if failed:
        logger.warning(
            "%d objects could not be deleted; the next reconciliation tries again: %r",
            len(failed),
            failure,
        )
    return failed


class Evictions:
    """Objects that are to be deleted.

    Parameters
    ----------
    session
        That of the scheduler; it has a store.
    evict
        ``(keys) -> keys``: delete them, and return what could not be; blocks.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop. It deletes in threads.
    """

    _queue: list[Key]
    #: What could not be deleted, until the next sweep.
    _failed: list[Key]
    _task: asyncio.Task[None] | None

    def __init__(
        self, session: Session, evict: Callable[[list[Key]], list[Key]]
    ) -> None:
        self._session = session
        self._evict = evict
        self._queue = []
        self._failed = []
        self._task = None
        self._closed = False

    def __iter__(self) -> Iterator[Key]:
        """Iterate over what has not been begun with."""
        return iter(self._queue)

    def add(self, keys: list[Key]) -> None:
        """Delete objects, soon."""
        if self._closed:
            return
        self._queue += keys
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._queue:
            keys, self._queue = self._queue, []
            try:
                self._failed += await self._session.run(self._evict, keys)
            except Exception:
                logger.exception("Eviction failed; the next reconciliation tries again")
                self._failed += keys
        self._task = None

    async def sweep(self, known: Iterable[Key], grace: float) -> None:
        """Delete expired leases, and objects of dead processes that nobody holds.

        Parameters
        ----------
        known
            What somebody holds.
        grace
            Seconds for which an object is left alone.
        """
        assert self._session.store is not None
        if self._failed:
            failed, self._failed = self._failed, []
            self.add(failed)
        sweep = getattr(self._session.store.connector, "sweep", None)
        if sweep is None:
            return
        try:
            swept = await self._session.run(sweep, [*known, *self._queue], grace)
        except Exception:
            logger.exception("Reconciliation failed; it is tried again")
            return
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
