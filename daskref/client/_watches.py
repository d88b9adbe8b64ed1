"""What this client waits to hear from the scheduler: that Dask is done with a key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any, Protocol

from daskref.background import make_lock


class Send(Protocol):
    """Send a message to the scheduler, in order with the client's graphs."""

    def __call__(self, message: dict[str, Any], /) -> None:
        """Send it. Thread-safe."""


class Ended(Protocol):
    """Take note that the keys of a watch are at their end; called on the event loop."""

    def __call__(self, heard: bool, /) -> object:
        """Take note of it.

        Parameters
        ----------
        heard
            False: the client leaves, and will not hear of the keys any more.
        """


@dataclass(eq=False, slots=True)
class _Watch:
    """Keys, and what is called when all of them are at their end."""

    keys: set[Any]
    until: str
    ended: Ended


@dataclass(eq=False, repr=False)
class Watches:
    """The watches of one client.

    Notes
    -----
    Thread-safe. Each watch ends once, on the event loop as a rule.
    """

    #: Sends messages to the scheduler.
    _send: Send
    _lock: Lock = field(default_factory=make_lock)
    _by_id: dict[int, _Watch] = field(default_factory=dict)
    #: of watches that wait until keys are done
    _by_key: dict[Any, set[int]] = field(default_factory=dict)
    _closed: bool = False

    def __post_init__(self) -> None:
        self._ids = count()

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, keys: list[Any], until: str, ended: Ended) -> int:
        """Wait until all of some keys are at their end.

        Parameters
        ----------
        until
            ``"done"``: the keys of a graph that is sent next are in memory, have
            failed, or are not wanted any more. ``"forgotten"``: nobody needs them.

        Returns
        -------
        int
            For :meth:`remove`.
        """
        with self._lock:
            id = next(self._ids)
            if not (closed := self._closed):
                self._by_id[id] = _Watch(set(keys), until, ended)
                if until == "done":
                    for key in keys:
                        self._by_key.setdefault(key, set()).add(id)
        if closed:
            ended(False)
        else:
            self._tell(id, keys, until)
        return id

    def remove(self, id: int) -> None:
        """Wait no more; silent if the watch has ended. It is not called."""
        if self._pop(id) is not None:
            self._tell(id, [], None)

    def end(self, id: int) -> None:
        """Take note of the scheduler's word."""
        if (watch := self._pop(id)) is not None:
            watch.ended(True)

    def fail(self, keys: Iterable[Any]) -> None:
        """Take note that keys have failed or were cancelled, as Dask says.

        The scheduler has spoken first, unless their graph never came to be.
        """
        for key in keys:
            for id in list(self._by_key.get(key, ())):
                with self._lock:
                    watch = self._by_id.get(id)
                    if watch is None:
                        continue
                    watch.keys.discard(key)
                    self._drop_key(key, id)
                if not watch.keys:
                    self._tell(id, [], None)
                    self.end(id)

    def withdraw(self, id: int) -> None:
        """End a watch on keys whose graph was not sent."""
        if id in self._by_id:
            self._tell(id, [], None)
            self.end(id)

    def end_all(self) -> None:
        """Take note that there are no keys any more."""
        for id in list(self._by_id):
            self.end(id)

    def end_forgotten(self, keys: Iterable[Any]) -> None:
        """Take note that the scheduler has forgotten keys."""
        gone = set(keys)
        for id, watch in list(self._by_id.items()):
            if watch.keys <= gone:
                self.end(id)

    def waits_for_forgotten(self) -> list[Any]:
        """Return the keys that are to be forgotten."""
        watches = [one for one in self._by_id.values() if one.until == "forgotten"]
        return list({key for watch in watches for key in watch.keys})

    def close(self) -> None:
        """End all watches: the client will not hear of keys any more."""
        with self._lock:
            self._closed = True
        for id in list(self._by_id):
            if (watch := self._pop(id)) is not None:
                watch.ended(False)

    def _tell(self, id: int, keys: list[Any], until: str | None) -> None:
        self._send({"op": "daskref-watch", "id": id, "keys": keys, "until": until})

    def _pop(self, id: int) -> _Watch | None:
        with self._lock:
            watch = self._by_id.pop(id, None)
            if watch is not None:
                for key in watch.keys:
                    self._drop_key(key, id)
            return watch

    def _drop_key(self, key: Any, id: int) -> None:
        if (ids := self._by_key.get(key)) is not None:
            ids.discard(id)
            if not ids:
                del self._by_key[key]
