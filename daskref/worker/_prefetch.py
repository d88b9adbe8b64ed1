"""Prefetching: inputs of tasks that wait for a thread, from other hosts."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from daskref.background import Executor
from daskref.connectors.base import Key
from daskref.connectors.zmq.connector import ZmqConnector
from daskref.exceptions import DaskrefError

logger = logging.getLogger(__name__)

#: Transfers at a time; each may have several connections.
_AT_A_TIME = 2


@dataclass(eq=False, repr=False)
class Ahead:
    """Inputs of one worker's waiting tasks. For the event loop; fetches in threads."""

    #: Keeps what it fetches on this host.
    _connector: ZmqConnector
    #: The most of :attr:`nbytes`.
    _limit: int
    #: Bytes fetched, or on their way, for tasks that have not begun.
    nbytes: int = 0
    _waiting: OrderedDict[Hashable, set[Key]] = field(default_factory=OrderedDict)
    _fetched: dict[Hashable, set[Key]] = field(default_factory=dict)
    _uses: dict[Key, int] = field(default_factory=dict)
    _fetches: dict[Key, Future[None]] = field(default_factory=dict)
    _closed: bool = False

    def __post_init__(self) -> None:
        self._executor = Executor(_AT_A_TIME, "daskref-ahead")

    def add(self, task: Hashable, keys: Iterable[Key]) -> None:
        """Fetch the inputs of a waiting task, after earlier ones; no-op once closed."""
        if self._closed:
            return
        self._waiting.setdefault(task, set()).update(keys)
        self._go_on()

    def begun(self, task: Hashable) -> None:
        """Record that a task waits no longer. Silent if it did not.

        The task fetches the inputs that are not under way and that no other task waits
        for.
        """
        if not self._waiting and not self._fetched:
            return
        self._waiting.pop(task, None)
        for key in self._fetched.pop(task, ()):
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key]
                self._fetches.pop(key).cancel()
                self.nbytes -= key[1]
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting:
            task, keys = next(iter(self._waiting.items()))
            new = {key for key in keys if key not in self._uses}
            if self.nbytes + sum(key[1] for key in new) > self._limit:
                return
            del self._waiting[task]
            for key in keys - self._fetched.setdefault(task, set()):
                self._fetched[task].add(key)
                self._uses[key] = self._uses.get(key, 0) + 1
            for key in new:
                self.nbytes += key[1]
                self._fetches[key] = self._executor.submit(self._fetch, key)

    def _fetch(self, key: Key) -> None:
        try:
            self._connector.get(key)
        except DaskrefError as exc:  # the task has it again, and says so
            logger.debug("Could not fetch %s ahead: %s", key[0], exc)
        except Exception:
            logger.exception("Could not fetch %s ahead", key[0])

    def close(self) -> None:
        """Begin no further transfer; those under way end by themselves."""
        self._closed = True
        for each in (self._waiting, self._fetched, self._uses, self._fetches):
            each.clear()
        self.nbytes = 0
        self._executor.close(cancel=True)
