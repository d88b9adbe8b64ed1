"""What users have bound to Dask's keys, in whichever store it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from daskref.connectors.base import Key
from daskref.scheduler._elsewhere import Elsewhere, ElsewhereObjects
from daskref.scheduler._holders import Holder, Holders

#: As :func:`daskref.store.registry.tell` describes an object; two of it identify it.
Told = tuple[Any, ...]


class Bindings:
    """Objects that somebody holds, in the session's store or in one of a user's.

    Parameters
    ----------
    holders
        The table of what is in the session's store.
    evict
        ``(keys) -> None``: delete objects of the session's store soon.
    run
        ``async (function, *arguments)``: call it off the event loop.
    tell
        ``(client, message) -> None``.
    find
        ``(key) -> the scheduler's state of the task | None``.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop.
    """

    _elsewhere: Holders
    _binders: dict[Any, set[str]]

    def __init__(
        self,
        holders: Holders,
        evict: Callable[[list[Key]], None],
        run: Callable[..., Awaitable[Any]],
        tell: Callable[[str, dict[str, Any]], None],
        find: Callable[[Any], Any],
    ) -> None:
        self._holders = holders
        self._elsewhere = Holders()
        self._objects = ElsewhereObjects(run)
        self._evict = evict
        self._tell = tell
        self._find = find
        self._binders = {}

    def __len__(self) -> int:
        return len(self._elsewhere)

    # Holding

    def hold(self, holder: Holder, objects: Iterable[Told]) -> None:
        """Let a holder hold objects."""
        for place, obj, nbytes, how in objects:
            if place:
                self._objects.add(Elsewhere(place, obj), how)
                self._elsewhere.hold(holder, Elsewhere(place, obj), nbytes)
            else:
                self._holders.hold(holder, tuple(obj), nbytes)

    def release(self, holder: Holder, objects: Iterable[Told] | None = None) -> None:
        """Let a holder go of objects, by default of all; the last one deletes."""
        if objects is None:
            self._evict(self._holders.release(holder))
            self._objects.evict(self._release_elsewhere(holder, None))
            return
        for place, obj, *_ in objects:
            if place:
                found = self._release_elsewhere(holder, [Elsewhere(place, obj)])
                self._objects.evict(found)
            else:
                self._evict(self._holders.release(holder, [tuple(obj)]))

    def hand_over(self, holder: Holder, told: Told, client: str) -> None:
        """Let a client have an object, which decides when it goes."""
        place, obj, nbytes, _ = told
        if place:
            found = self._release_elsewhere(holder, [Elsewhere(place, obj)])
            self._objects.forget(found)
        else:
            self._holders.hold(Holder("client", client), tuple(obj), nbytes)
            self._holders.release(holder, [tuple(obj)])

    def _release_elsewhere(
        self, holder: Holder, objects: list[Elsewhere] | None
    ) -> list[Elsewhere]:
        return [Elsewhere(*obj) for obj in self._elsewhere.release(holder, objects)]

    def retry(self) -> None:
        """Try again to delete what could not be deleted."""
        self._objects.retry()

    async def close(self) -> None:
        """Delete what is left in users' stores: there are no keys any more."""
        await self._objects.close()

    # Keys

    def bind(self, client: str, task: Any, objects: Iterable[Told]) -> None:
        """Bind objects to a key; if there is no such key, they go at once.

        Parameters
        ----------
        client
            To be told when the key is forgotten.
        task
            The key.
        objects
            As :func:`daskref.store.registry.tell` describes them.
        """
        self.hold(Holder("bound", task), objects)
        self._binders.setdefault(task, set()).add(client)
        if self._find(task) is None:
            self.forget(task)

    def unbind(self, client: str, task: Any, objects: Iterable[Told]) -> None:
        """Let a key go of objects."""
        self.release(Holder("bound", task), objects)

    def forget(self, task: Any) -> None:
        """Take note that a key was forgotten; silent if nothing was bound to it."""
        if task in self._binders:
            self.release(Holder("bound", task))
            for client in self._binders.pop(task):
                self._tell(client, {"op": "daskref-unbound", "task": task})

    def forget_all(self) -> None:
        """Take note that there are no keys any more."""
        for task in list(self._binders):
            self.forget(task)
