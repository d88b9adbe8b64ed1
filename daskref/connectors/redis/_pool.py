"""Connections to one server that threads share, and what happens when it fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    InvalidResponse,
    RedisError,
)

from daskref.background import forget_in_child
from daskref.connectors.redis._errors import Advice, Refusal, advice, translated
from daskref.connectors.redis._wire import Command, Reply, Wire
from daskref.exceptions import ConnectorError, ConnectorUnavailableError

T = TypeVar("T")

#: Connections that are kept open while nobody uses them.
_IDLE = 8
#: Seconds: the first wait before another attempt, and the longest.
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 1.0
#: Seconds: the longest time for which nothing is tried that can do without the server.
_LONGEST_PAUSE = 30.0


class Wires:
    """Connections to one server. Thread-safe; a forked child makes its own.

    Parameters
    ----------
    make
        ``() -> connection`` of the driver's, not connected.
    name
        ``repr`` of the connector, for errors.
    timeout
        Seconds without any progress after which an operation fails.
    retries
        How often to try again what failed because the connection did.
    """

    name: str

    def __init__(
        self, make: Callable[[], Any], name: str, timeout: float, retries: int
    ) -> None:
        self._make = make
        self.name = name
        self._timeout = timeout
        self._retries = retries
        self._idle: list[Wire] = []
        self._lock = Lock()
        self._closed = False
        self._pause_ends = 0.0
        self._last_error = ""
        forget_in_child(self)

    def run(self, work: Callable[[Wire], T], *, patient: bool = True) -> T:
        """Run ``work(wire)`` on a connection of its own, again if that breaks.

        Parameters
        ----------
        work
            May run several times, and may have had its effect before it failed. If it
            raises :class:`Refusal`, it has read all replies.
        patient
            Whether to try at once, and again, even if the server has just been found
            to be away: for what cannot do without it.

        Raises
        ------
        ConnectorError
            If the server replied an error, or all attempts failed.
        """
        if not patient and time.monotonic() < self._pause_ends:
            raise ConnectorUnavailableError(self.name, self._last_error)
        begin, attempt = time.monotonic(), 0
        while True:
            wire = self._take()
            fresh = wire is None
            try:
                if wire is None:
                    wire = Wire(self._make(), self._timeout)
                result = work(wire)
            except Refusal as exc:
                self._give(wire)
                if exc.kind is not BusyLoadingError:
                    raise translated(exc, self.name) from exc
                failure: BaseException = exc
            except (RedisError, OSError) as exc:
                self._drop(wire)
                if not fresh and not isinstance(exc, TimeoutError):
                    # The server has restarted, or ended what was idle: all of them.
                    self._drop_idle()
                    continue
                failure = exc
            except BaseException:
                self._drop(wire)  # there may be replies that nobody has read
                raise
            else:
                self._give(wire)
                self._pause_ends = 0.0
                return result
            attempt += 1
            if attempt > self._retries or not _passing(failure):
                raise self._failed(failure, time.monotonic() - begin) from failure
            wait = min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT)
            time.sleep(wait * random.uniform(0.7, 1.0))

    def ask(self, command: Command, *, patient: bool = True) -> Reply:
        """Return the reply to one command; raises as :meth:`run` does."""
        return self.run(lambda wire: wire.ask(*command), patient=patient)

    def _failed(self, exc: BaseException, seconds: float) -> ConnectorError:
        error = translated(exc, self.name)
        if isinstance(error, ConnectorUnavailableError):
            self._last_error = error.message
            self._pause_ends = time.monotonic() + min(seconds, _LONGEST_PAUSE)
        return error

    def _take(self) -> Wire | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give(self, wire: Wire | None) -> None:
        with self._lock:
            if wire is not None and not self._closed and len(self._idle) < _IDLE:
                self._idle.append(wire)
                return
        self._drop(wire)

    def _drop(self, wire: Wire | None) -> None:
        if wire is not None:
            with suppress(RedisError, OSError):
                wire.close()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for wire in idle:
            self._drop(wire)

    def forget(self) -> None:
        """Give up the parent's connections, in a forked child."""
        self._lock = Lock()
        self._drop_idle()

    def close(self) -> None:
        """Close what is idle; what is in use closes when it is given back."""
        self._closed = True
        self._drop_idle()


def _passing(exc: BaseException) -> bool:
    """Tell whether to try again: timeouts have cost enough, and no to users stays."""
    if isinstance(exc, Refusal):
        return True
    if isinstance(exc, (AuthenticationError, AuthorizationError, InvalidResponse)):
        return False
    found: Advice = advice(exc)
    return found == advice(ConnectionError()) or found == advice(BusyLoadingError())
