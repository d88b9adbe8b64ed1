"""What tasks need from other hosts, fetched while they wait for a thread."""

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
    """The inputs of one worker's waiting tasks.

    Notes
    -----
    Not thread-safe: it belongs to the worker's event loop. It fetches in threads.
    """

    #: Fetches them; what it has fetched, it has on this host.
    _connector: ZmqConnector
    #: Bytes that may be there, or on their way, for tasks that have not begun.
    _limit: int
    _waiting: OrderedDict[Hashable, set[Key]] = field(default_factory=OrderedDict)
    _fetched: dict[Hashable, set[Key]] = field(default_factory=dict)
    _uses: dict[Key, int] = field(default_factory=dict)
    _fetches: dict[Key, Future[None]] = field(default_factory=dict)
    _nbytes: int = 0
    _closed: bool = False

    def __post_init__(self) -> None:
        self._executor = Executor(_AT_A_TIME, "daskref-ahead")

    @property
    def nbytes(self) -> int:
        """Bytes that are there, or on their way, for tasks that have not begun."""
        return self._nbytes

    def add(self, task: Hashable, keys: Iterable[Key]) -> None:
        """Take note of what a task needs that waits; after those that waited before.

        Silent once closed.
        """
        if self._closed:
            return
        self._waiting.setdefault(task, set()).update(keys)
        self._go_on()

    def begun(self, task: Hashable) -> None:
        """Take note that a task waits no more. Silent if it did not.

        What nobody waits for and is not under way yet is left to the task itself.
        """
        if not self._waiting and not self._fetched:
            return
        self._waiting.pop(task, None)
        for key in self._fetched.pop(task, ()):
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key]
                self._fetches.pop(key).cancel()
                self._nbytes -= key[1]
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting:
            task, keys = next(iter(self._waiting.items()))
            new = {key for key in keys if key not in self._uses}
            if self._nbytes + sum(key[1] for key in new) > self._limit:
                return
            del self._waiting[task]
            for key in keys - self._fetched.setdefault(task, set()):
                self._fetched[task].add(key)
                self._uses[key] = self._uses.get(key, 0) + 1
            for key in new:
                self._nbytes += key[1]
                self._fetches[key] = self._executor.submit(self._fetch, key)

    def _fetch(self, key: Key) -> None:
        try:
            self._connector.get(key)
        except DaskrefError as exc:  # the task has it again, and says so
            logger.debug("Could not fetch %s ahead: %s", key[0], exc)
        except Exception:
            logger.exception("Could not fetch %s ahead", key[0])

    def close(self) -> None:
        """Fetch nothing more; what is under way ends by itself."""
        self._closed = True
        for each in (self._waiting, self._fetched, self._uses, self._fetches):
            each.clear()
        self._nbytes = 0
        self._executor.close(cancel=True)
