"""Objects in stores other than the session's, that the scheduler is to delete."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from daskref.connectors.credentials import remember
from daskref.objects.reference import StoreConfig
from daskref.store.registry import registered
from daskref.store.store import Store

logger = logging.getLogger(__name__)

#: How often a deletion that failed is tried in all.
ATTEMPTS = 5


class Elsewhere(NamedTuple):
    """An object in a store that a user made."""

    #: What tells the store's place from others.
    place: str
    #: What tells the object from others there.
    object: str


class ElsewhereObjects:
    """How to delete objects in stores that users made.

    A store is opened when the first of its objects is deleted, not before, and closed
    with the last: it may be that nobody else has it open any more, and then it goes
    when we close it, with what other keys are bound to.

    Parameters
    ----------
    run
        ``async (function, *arguments)``: call it off the event loop.

    Notes
    -----
    Belongs to the scheduler's event loop; stores are touched elsewhere, one at a time.
    """

    _how: dict[Elsewhere, bytes]
    _failed: dict[Elsewhere, int]
    _stores: dict[str, Store]
    _queue: list[Elsewhere]
    _evicting: asyncio.Task[None] | None

    def __init__(self, run: Callable[..., Awaitable[Any]]) -> None:
        self._run = run
        self._how = {}
        self._failed = {}
        self._stores = {}
        self._queue = []
        self._evicting = None

    def __len__(self) -> int:
        return len(self._how)

    def add(self, obj: Elsewhere, how: bytes) -> None:
        """Take note of how an object is deleted: not opened, not unpickled yet."""
        self._how[obj] = how
        self._failed.pop(obj, None)

    def forget(self, objects: Iterable[Elsewhere]) -> None:
        """Leave objects to somebody else."""
        for obj in objects:
            self._how.pop(obj, None)

    def evict(self, objects: Iterable[Elsewhere]) -> None:
        """Delete objects soon."""
        self._queue += objects
        if self._queue and self._evicting is None:
            self._evicting = asyncio.create_task(self._evict_queued())

    def retry(self) -> None:
        """Try once more to delete what could not be deleted, up to a few times."""
        self.evict(self._failed)

    async def close(self) -> None:
        """Delete all objects, close the stores that were opened for that."""
        self.evict([*self._how])
        if self._evicting is not None:
            await self._evicting
        await self._run(self._close_stores, set(self._stores))

    async def _evict_queued(self) -> None:
        while self._queue:
            objects, self._queue = self._queue, []
            jobs = [(obj, how) for obj in objects if (how := self._how.pop(obj, None))]
            for obj, how, failure in await self._run(self._evict_now, jobs):
                self._note_failure(obj, how, failure)
            unused = self._stores.keys() - {obj.place for obj in self._how}
            await self._run(self._close_stores, unused)
        self._evicting = None

    def _evict_now(
        self, jobs: list[tuple[Elsewhere, bytes]]
    ) -> list[tuple[Elsewhere, bytes, Exception]]:
        failed = []
        for obj, how in jobs:
            try:
                config, key, secrets = pickle.loads(how)
                self._open(obj.place, config, secrets).evict(key)
            except Exception as exc:  # whatever a user's connector raises
                failed.append((obj, how, exc))
        return failed

    def _open(
        self, place: str, config: StoreConfig, secrets: dict[str, dict[str, str]]
    ) -> Store:
        store = self._stores.get(place) or registered(config)
        if store is None:
            for where, what in secrets.items():
                remember(where, what)
            store = self._stores[place] = Store.from_config(config)
        return store

    def _close_stores(self, places: Iterable[str]) -> None:
        for place in places:
            self._stores.pop(place).close()

    def _note_failure(self, obj: Elsewhere, how: bytes, failure: Exception) -> None:
        failures = self._failed.pop(obj, 0) + 1
        if failures < ATTEMPTS:
            logger.debug("Could not delete %s yet: %r", obj, failure)
            self._how[obj] = how
            self._failed[obj] = failures
        else:
            logger.warning(
                "An object that a key was bound to could not be deleted in %d attempts "
                "and stays in its store: %s",
                ATTEMPTS,
                failure,
            )
