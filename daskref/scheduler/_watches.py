"""Which clients want to hear that Dask is done with a key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

#: What a client waits for -> the states of a task in which it hears of it.
_ENDS = {"done": ("memory", "erred", "forgotten"), "forgotten": ("forgotten",)}


class Tell(Protocol):
    """Send a message to a client, in order with Dask's own."""

    def __call__(self, client: str, message: dict[str, Any], /) -> None:
        """Send it; silent if there is no such client."""


class FindTask(Protocol):
    """Return the scheduler's state of a task; ``None`` if there is none."""

    def __call__(self, key: Any, /) -> Any:
        """Return it."""


@dataclass(eq=False, slots=True)
class _Watch:
    """What one client waits for: that all of some keys are done, or forgotten."""

    client: str
    id: int
    until: str
    #: key -> whether what happens to it counts
    keys: dict[Any, bool] = field(default_factory=dict)


@dataclass(eq=False, repr=False)
class Watches:
    """The table of watches.

    A client that waits until keys are *done* says so before it sends their graph. Until
    the graph has arrived, what happens to the keys happens to earlier tasks of the same
    names, and does not count. A client that waits until keys are *forgotten* has sent
    their graphs before.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop.
    """

    #: Tells a client, before Dask tells it of the same transition.
    _tell: Tell
    #: Looks up a task.
    _find: FindTask
    _by_id: dict[tuple[str, int], _Watch] = field(default_factory=dict)
    _by_key: dict[Any, set[_Watch]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_id)

    def watch(self, client: str, id: int, keys: list[Any], until: str | None) -> None:
        """Tell a client once, when all of some keys are at their end.

        Parameters
        ----------
        id
            What it knows the watch by.
        until
            ``"done"``: in memory, failed, or forgotten; counts from the arrival of
            their graph on. ``"forgotten"``: at once, if they are. ``None``: the client
            does not wait any more.
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
        """Let what happens to the keys of a client's graph count from here on."""
        for key in keys:
            for watch in self._by_key.get(key, ()):
                if watch.client == client:
                    watch.keys[key] = True
            self._look(key)

    def _look(self, key: Any) -> None:
        ts = self._find(key)
        self.transition(key, "forgotten" if ts is None else ts.state)

    def transition(self, key: Any, finish: str) -> None:
        """Tell the clients for which a key is at its end with a transition."""
        for watch in list(self._by_key.get(key, ())):
            if watch.keys[key] and finish in _ENDS[watch.until]:
                self._forget(watch, key)
                if not watch.keys:
                    del self._by_id[watch.client, watch.id]
                    self._tell(watch.client, {"op": "daskref-ended", "id": watch.id})

    def restart(self) -> None:
        """Forget all: Dask tells the clients."""
        self._by_id.clear()
        self._by_key.clear()

    def remove_client(self, client: str) -> None:
        """Forget what a client waits for that is gone."""
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
