"""The location of objects in a session with several hosts, as the scheduler knows it.

:mod:`daskref.scheduler._dispatcher` answers.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from daskref.connectors.base import Key
from daskref.connectors.zmq.connector import ZmqConnector
from daskref.connectors.zmq.sources import Source, Sources
from daskref.exceptions import ObjectLostError

#: Seconds for the scheduler to answer a question.
_ANSWER = 30.0

#: ``(operation, message) -> answer``: ask the scheduler. Blocks; raises OSError, also
#: where it may not block.
Ask = Callable[[str, dict[str, Any]], Any]
#: ``(message) -> None``: tell the scheduler. Thread-safe.
Tell = Callable[[dict[str, Any]], None]


@dataclass(eq=False, repr=False)
class Locator(Sources):
    """Sources of objects as the scheduler assigns them.

    Thread-safe. In a forked child, and in a thread that may not block, it uses the
    answers received so far.
    """

    _owner: str
    #: This process's worker address or client id.
    _process: str
    _ask_scheduler: Ask
    _tell: Tell
    #: Identity of this host.
    _host: str = ""
    #: Host that serves -> its endpoints; see :meth:`update`.
    hosts: dict[str, list[str]] = field(default_factory=dict)
    takers: bool = False
    _given: dict[Key, list[Source]] = field(default_factory=dict)
    _failed: dict[Key, set[str]] = field(default_factory=dict)
    _pid: int = field(default_factory=os.getpid)

    def update(self, host: str, endpoints: list[str]) -> None:
        """Record the endpoints of a host; an empty list: the host is gone."""
        if endpoints:
            self.hosts[host] = endpoints
        else:
            self.hosts.pop(host, None)
        self.takers = any(each != self._host for each in list(self.hosts))

    def _ask(self, op: str, **message: Any) -> Any:
        if os.getpid() != self._pid:
            raise OSError("the scheduler does not know this process")
        return self._ask_scheduler(op, {"process": self._process, **message})

    def _home(self, key: Key) -> list[Source]:
        return [Source(key[2], self.hosts.get(key[2], []))]

    def sources(self, key: Key, waiting: Callable[[], None]) -> Sequence[Source]:
        """Return the one host that the scheduler assigns to this process, once it does.

        Raises ObjectLostError if no host has the object.
        """
        while True:
            failed = sorted(self._failed.get(key, ()))
            try:
                answer = self._ask("daskref_source", object=key, failed=failed)
            except OSError:
                return self._given.get(key) or self._home(key)
            waiting()
            match answer:
                case {"status": "queued"}:
                    continue
                case {"status": "found", "host": host, "endpoints": endpoints}:
                    self.update(host, list(endpoints))
                    self._given[key] = [Source(host, endpoints)]
                    return self._given[key]
                case {"status": "lost"}:
                    raise self._lost(answer)
                case {"status": "none"}:
                    # An interrupted host may come back.
                    return self._given.get(key, [])
                case _:  # it knows nothing of this process, or of the session, any more
                    return self._given.get(key) or self._home(key)

    def _lost(self, answer: dict[str, Any]) -> ObjectLostError:
        return ObjectLostError(self._owner, answer["reason"], answer["recomputed"])

    def ended(self, key: Key, copied: bool) -> None:
        """Tell the scheduler that a transfer has ended, so that the next may begin."""
        self._given.pop(key, None)
        self._failed.pop(key, None)
        if os.getpid() == self._pid:
            self._tell({"op": "daskref-fetched", "object": key, "copied": copied})

    def given_up(self, key: Key) -> None:
        """Raise ObjectLostError if the scheduler knows what became of the object."""
        failed = sorted(self._failed.get(key, ()))
        with suppress(OSError):
            answer = self._ask("daskref_source", object=key, failed=failed, last=True)
            match answer:
                case {"status": "lost"}:
                    raise self._lost(answer)

    def failed(self, key: Key, endpoint: str) -> None:
        """Record a failed endpoint; a host is avoided once all of its have failed."""
        self._failed.setdefault(key, set()).add(endpoint)

    def copies(self, key: Key) -> Sequence[Source]:
        """Return all hosts that have the object; the first is where it was put."""
        try:
            found = self._ask("daskref_copies", object=key)
        except OSError:
            return self._home(key)
        return [Source(*each) for each in found]

    def targets(self, nbytes: int) -> Sequence[Source]:
        """Return the hosts that serve, in random order."""
        found = [Source(*each) for each in list(self.hosts.items())]
        random.shuffle(found)
        return found


def ask(
    loop: Any,
    method: Callable[..., Any],
    message: dict[str, Any],
    timeout: float = _ANSWER,
) -> Any:
    """Run ``async method(**message)`` on an event loop from another thread, and wait.

    Raises OSError without an answer, after the loop's end, and in the loop's thread.
    """
    try:
        running: Any = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop.asyncio_loop:
        raise OSError("the event loop may not wait")
    coroutine = method(**message)
    try:
        if not loop.asyncio_loop.is_running():
            raise RuntimeError("nobody runs it")
        future = asyncio.run_coroutine_threadsafe(coroutine, loop.asyncio_loop)
    except RuntimeError as exc:
        coroutine.close()
        raise OSError("the event loop has ended") from exc
    try:
        return future.result(timeout)
    except OSError:
        future.cancel()
        raise
    except Exception as exc:
        future.cancel()
        raise OSError(f"the scheduler did not answer: {exc!r}") from exc


def evict(connector: ZmqConnector, objects: Iterable[Key]) -> None:
    """Delete objects of this host on behalf of the scheduler. Blocks."""
    connector.evict_here(map(tuple, objects))


def sweep(connector: ZmqConnector, known: list[str], grace: float) -> int:
    """Delete this host's objects that the scheduler does not know. Blocks.

    Returns how many.
    """
    return len(connector.sweep([(name,) for name in known], grace))
