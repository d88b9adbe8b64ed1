"""One server: connections that threads share, and retries when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from redis.backoff import EqualJitterBackoff
from redis.exceptions import ConnectionError, RedisError, ResponseError
from redis.retry import Retry

from daskref.background import forget_in_child
from daskref.connectors.redis._errors import is_passing, translated
from daskref.connectors.redis._options import Place
from daskref.connectors.redis._wire import Command, Reply, Wire
from daskref.exceptions import ConnectorError, ConnectorUnavailableError

T = TypeVar("T")

#: Seconds between two attempts: least and most.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.1, 1.0
#: Seconds: the longest time for which impatient operations fail without an attempt.
_LONGEST_PAUSE = 30.0


class Server:
    """A server, and a pool of the driver's connections to it.

    Parameters
    ----------
    place
        Address and credentials.
    name
        For errors.
    options
        ``timeout`` and ``connect_timeout``: seconds without progress after which an
        operation, or connecting, fails. ``retries``: attempts after errors of the
        connection.

    Notes
    -----
    Thread-safe; a forked child makes new connections.
    """

    def __init__(self, place: Place, name: str, options: Mapping[str, Any]) -> None:
        timeouts = options["timeout"], options["connect_timeout"]
        self._make_pool = lambda: place.pool(*timeouts)
        self._pool = self._make_pool()
        self.name = name
        backoff = EqualJitterBackoff(_LONGEST_WAIT, _SHORTEST_WAIT)
        self._retry = Retry(backoff, options["retries"], (ConnectionError, OSError))
        self._closed = False
        self._pause_ends = 0.0
        self._last_error = ""
        forget_in_child(self)

    def run(self, work: Callable[[Wire], T], *, patient: bool = True) -> T:
        """Run ``work(wire)``, again if the connection breaks.

        Raises ConnectorError if the server replied an error, or all attempts failed.

        Parameters
        ----------
        work
            May run several times, and may have had its effect before it failed. If it
            raises the driver's ``ResponseError``, it has read all replies.
        patient
            Whether to try, and retry, even if the last operation could not reach the
            server: for operations that cannot be omitted.
        """
        if not patient and time.monotonic() < self._pause_ends:
            raise ConnectorUnavailableError(self.name, self._last_error)
        begin = time.monotonic()
        try:
            result = self._retry.call_with_retry(
                lambda: self._attempt(work), self._prepare_another
            )
        except (RedisError, OSError) as exc:
            raise self._failed(exc, time.monotonic() - begin) from exc
        self._pause_ends = 0.0
        return result

    def ask(self, command: Command, *, patient: bool = True) -> Reply:
        """Return the reply to one command; raises as :meth:`run` does."""
        return self.ask_all([command], patient=patient)[0]

    def ask_all(
        self, commands: Sequence[Command], *, patient: bool = True
    ) -> list[Reply]:
        """Send commands together, return their replies; raises as :meth:`run` does."""
        return self.run(lambda wire: wire.ask_all(commands), patient=patient)

    def _attempt(self, work: Callable[[Wire], T]) -> T:
        pool = self._pool
        connection = pool.get_connection()  # checks that the server has not ended it
        try:
            return work(Wire(connection))
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()  # it may have unread replies
            raise
        finally:
            if self._closed:
                connection.disconnect()
            pool.release(connection)

    def _prepare_another(self, exc: Exception) -> None:
        if not is_passing(exc):
            raise exc
        # idle connections are probably broken as well
        self._pool.disconnect(inuse_connections=False)

    def _failed(self, exc: BaseException, seconds: float) -> ConnectorError:
        error = translated(exc, self.name)
        if isinstance(error, ConnectorUnavailableError):
            self._last_error = error.message
            self._pause_ends = time.monotonic() + min(seconds, _LONGEST_PAUSE)
        return error

    def forget(self) -> None:
        """Replace the parent's connections and locks, in a forked child."""
        self._pool = self._make_pool()

    def close(self) -> None:
        """Close the idle connections now, and the others when they are released."""
        self._closed = True
        self._pool.disconnect(inuse_connections=False)
