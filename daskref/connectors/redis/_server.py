"""One server: connections that threads share, and further attempts when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from redis.backoff import EqualJitterBackoff
from redis.exceptions import ConnectionError, RedisError, ResponseError
from redis.retry import Retry

from daskref.background import forget_in_child
from daskref.connectors.redis._errors import is_passing, translated
from daskref.connectors.redis._options import Place
from daskref.connectors.redis._wire import Command, Reply, Wire
from daskref.exceptions import ConnectorError, ConnectorUnavailableError

T = TypeVar("T")

#: Seconds: the shortest wait before another attempt, and the longest.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.1, 1.0
#: Seconds: the longest time for which nothing is tried that can do without the server.
_LONGEST_PAUSE = 30.0


class Server:
    """A server, and a pool of the driver's connections to it.

    Parameters
    ----------
    place
        Where it is, and how to log in.
    timeout, connect_timeout
        Seconds without any progress after which an operation, or connecting, fails.
    retries
        How often to try again what failed because the connection did.

    Notes
    -----
    Thread-safe; a forked child makes connections of its own.
    """

    name: str

    def __init__(
        self,
        place: Place,
        name: str,
        timeout: float,
        connect_timeout: float,
        retries: int,
    ) -> None:
        self._make_pool = lambda: place.pool(timeout, connect_timeout)
        self._pool = self._make_pool()
        self.name = name
        backoff = EqualJitterBackoff(_LONGEST_WAIT, _SHORTEST_WAIT)
        self._retry = Retry(backoff, retries, (ConnectionError, OSError))
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
            Whether to try at once, and again, even if the server has just been found
            to be away: for what cannot do without it.
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
        connection = pool.get_connection()  # none that the server has ended
        try:
            return work(Wire(connection))
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()  # there may be replies that nobody has read
            raise
        finally:
            if self._closed:
                connection.disconnect()
            pool.release(connection)

    def _prepare_another(self, exc: Exception) -> None:
        if not is_passing(exc):
            raise exc
        # what is idle has probably ended as well, also if nobody has said so
        self._pool.disconnect(inuse_connections=False)

    def _failed(self, exc: BaseException, seconds: float) -> ConnectorError:
        error = translated(exc, self.name)
        if isinstance(error, ConnectorUnavailableError):
            self._last_error = error.message
            self._pause_ends = time.monotonic() + min(seconds, _LONGEST_PAUSE)
        return error

    def forget(self) -> None:
        """Give up the parent's connections and locks, in a forked child."""
        self._pool = self._make_pool()

    def close(self) -> None:
        """Close what is idle; what is in use closes when it is given back."""
        self._closed = True
        self._pool.disconnect(inuse_connections=False)
