"""Keys whose end this client waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any

from daskref.background import make_lock

#: ``(message)``: send to the scheduler, in order with the client's graphs. Thread-safe.
Send = Callable[[dict[str, Any]], None]
#: ``(heard)``: called when a watch ends; False: the client leaves before the keys end.
Ended = Callable[[bool], object]


@dataclass(eq=False, slots=True)
class _Watch:
    """Keys, and the function to call when all of them have ended."""

    keys: set[Any]
    until: str
    ended: Ended


@dataclass(eq=False, repr=False)
class Watches:
    """The watches of one client.

    Thread-safe. Each watch ends once, on the event loop as a rule.
    """

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
        """Wait until all of some keys have ended; return a number for :meth:`remove`.

        *until*: ``"done"``: the keys of the next graph are in memory, failed, or not
        wanted any more; ``"forgotten"``: Dask has forgotten them.
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
        """End a watch without a call; silent if it has ended."""
        if self._pop(id) is not None:
            self._tell(id, [], None)

    def end(self, id: int) -> None:
        """End a watch, as the scheduler says."""
        if (watch := self._pop(id)) is not None:
            watch.ended(True)

    def fail(self, keys: Iterable[Any]) -> None:
        """Record that keys have failed or were cancelled, as Dask says.

        The scheduler's own message comes first, unless it never got the graph.
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
                    self.withdraw(id)

    def withdraw(self, *ids: int) -> None:
        """End watches on keys whose graph was not sent."""
        for id in ids:
            if id in self._by_id:
                self._tell(id, [], None)
                self.end(id)

    def end_all(self) -> None:
        """End all watches: there are no keys any more."""
        for id in list(self._by_id):
            self.end(id)

    def end_forgotten(self, keys: Iterable[Any]) -> None:
        """End the watches on forgotten keys."""
        gone = set(keys)
        for id, watch in list(self._by_id.items()):
            if watch.keys <= gone:
                self.end(id)

    def waits_for_forgotten(self) -> list[Any]:
        """Return the keys that watches wait for to be forgotten."""
        watches = [one for one in self._by_id.values() if one.until == "forgotten"]
        return list({key for watch in watches for key in watch.keys})

    def close(self) -> None:
        """End all watches: the client gets no further messages."""
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
