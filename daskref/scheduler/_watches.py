"""Clients that wait until Dask is done with keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

#: What a client waits for -> the states of a task that end the wait.
_ENDS = {"done": ("memory", "erred", "forgotten"), "forgotten": ("forgotten",)}


#: ``(client, message)``: send in order with Dask's own; silent without such a client.
Tell = Callable[[str, dict[str, Any]], None]


@dataclass(eq=False, slots=True)
class _Watch:
    """A client's wait until all of some keys are done, or forgotten."""

    client: str
    id: int
    until: str
    #: Key -> whether its transitions count
    keys: dict[Any, bool] = field(default_factory=dict)


@dataclass(eq=False, repr=False)
class Watches:
    """The watches of all clients. For the scheduler's event loop.

    A client that waits until keys are *done* starts the watch before it sends their
    graph. Transitions before the graph's arrival are those of earlier tasks of the same
    names, and do not count. A client that waits until keys are *forgotten* has sent
    their graphs before.
    """

    #: Called before Dask tells the client of the same transition.
    _tell: Tell
    #: ``(key) -> TaskState`` or ``None``.
    _find: Callable[[Any], Any]
    _by_id: dict[tuple[str, int], _Watch] = field(default_factory=dict)
    _by_key: dict[Any, set[_Watch]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_id)

    def watch(self, client: str, id: int, keys: list[Any], until: str | None) -> None:
        """Tell a client once, when all of some keys have ended.

        Parameters
        ----------
        client, id
            The client, and its name for the watch.
        until
            ``"done"``: in memory, failed, or forgotten, after the arrival of the graph.
            ``"forgotten"``: at once for unknown keys. ``None``: the client waits no
            longer.
        """
        if until is None:
            if (watch := self._by_id.get((client, id))) is not None:
                self._drop(watch)
            return
        watch = self._by_id[client, id] = _Watch(client, id, until)
        for key in keys:
            watch.keys[key] = until == "forgotten"
            self._by_key.setdefault(key, set()).add(watch)
        if until == "forgotten":
            for key in keys:
                self._look(key)

    def graph_arrived(self, client: str, keys: Iterable[Any]) -> None:
        """Count transitions of the keys of a client's graph from now on."""
        for key in keys:
            for watch in self._by_key.get(key, ()):
                if watch.client == client:
                    watch.keys[key] = True
            self._look(key)

    def _look(self, key: Any) -> None:
        ts = self._find(key)
        self.transition(key, "forgotten" if ts is None else ts.state)

    def transition(self, key: Any, finish: str) -> None:
        """Tell the clients whose keys have all ended with this transition."""
        for watch in list(self._by_key.get(key, ())):
            if watch.keys[key] and finish in _ENDS[watch.until]:
                self._forget(watch, key)
                if not watch.keys:
                    del self._by_id[watch.client, watch.id]
                    self._tell(watch.client, {"op": "daskref-ended", "id": watch.id})

    def restart(self) -> None:
        """Forget all watches: Dask tells the clients."""
        self._by_id.clear()
        self._by_key.clear()

    def remove_client(self, client: str) -> None:
        """Forget the watches of a client."""
        for watch in [each for each in self._by_id.values() if each.client == client]:
            self._drop(watch)

    def _drop(self, watch: _Watch) -> None:
        for key in list(watch.keys):
            self._forget(watch, key)
        del self._by_id[watch.client, watch.id]

    def _forget(self, watch: _Watch, key: Any) -> None:
        del watch.keys[key]
        watches = self._by_key[key]
        watches.discard(watch)
        if not watches:
            del self._by_key[key]
