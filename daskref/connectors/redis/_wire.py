"""Redis's protocol on the driver's connections, large values without copies.

The driver connects, over TLS if need be, logs in, and keeps connections. Its own
reading and writing copy each value several times, so this module uses the driver's
socket: values are sent from the caller's buffers, and received into the reader's.

``_sock`` is a private name of the driver; a test looks for it in the installed one.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from redis.exceptions import ConnectionError, InvalidResponse, ResponseError

#: One argument of a command: bytes, or views of its parts.
Argument: TypeAlias = bytes | Sequence[memoryview]
Command: TypeAlias = Sequence[Argument]
#: A server's reply. Errors are returned, not raised, so that all replies are read.
Reply: TypeAlias = Any

#: Bytes read at once where the length of a reply is not known.
_READ = 32 * 2**10
#: Buffers up to this size are joined before they are sent.
_JOINED = 32 * 2**10
#: Bytes sent at once: the timeout applies to each piece.
_SENT = 2**20
#: Bytes from which huge pages are worthwhile: new memory dominates the receive time.
_HUGE = 2 * 2**20
#: Bytes and number of outstanding replies. The server copies each reply; a few small
#: ones stay in its caches.
_WINDOW, _PIPELINE = 3 * 2**20, 256


class Request(NamedTuple):
    """A command whose reply is bytes."""

    command: Command
    #: At most this many are expected.
    nbytes: int
    #: ``(nbytes) -> memoryview`` of that length, to receive into.
    allocate: Callable[[int], memoryview]


def writable(nbytes: int) -> memoryview:
    """Return new memory."""
    if nbytes < _HUGE:
        return memoryview(bytearray(nbytes))
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # this kernel has none
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


class Wire:
    """A connection of the driver's. Not thread-safe.

    *connection*: connected and without unread replies, as it is again after each method
    that does not raise.
    """

    def __init__(self, connection: Any) -> None:
        self._socket = connection._sock
        self._bytes = bytearray(_READ)
        self._buffer = memoryview(self._bytes)
        self._start = self._stop = 0

    # Out

    def send(self, commands: Iterable[Command]) -> None:
        """Send commands; each has one reply."""
        pending = bytearray()
        for command in commands:
            pending += b"*%d\r\n" % len(command)
            for argument in command:
                if isinstance(argument, bytes):
                    pending += b"$%d\r\n%b\r\n" % (len(argument), argument)
                    continue
                pending += b"$%d\r\n" % sum(view.nbytes for view in argument)
                for view in argument:
                    if view.nbytes <= _JOINED:
                        pending += view
                    else:
                        self._write(memoryview(pending))
                        pending = bytearray()
                        self._write(view)
                pending += b"\r\n"
            if len(pending) > _SENT:
                self._write(memoryview(pending))
                pending = bytearray()
        self._write(memoryview(pending))

    def _write(self, view: memoryview) -> None:
        done, nbytes = 0, view.nbytes
        while done < nbytes:
            done += self._socket.send(view[done : done + _SENT])

    # In

    def _receive(self, into: memoryview) -> int:
        count: int = self._socket.recv_into(into)
        if not count:
            raise ConnectionError("the server closed the connection")
        return count

    def _line(self) -> bytes:
        before = b""
        while True:
            end = self._bytes.find(b"\n", self._start, self._stop)
            if end >= 0:
                line = before + self._buffer[self._start : end + 1]
                self._start = end + 1
                if not line.endswith(b"\r\n"):
                    raise InvalidResponse(f"a line that begins with {line[:20]!r}")
                return line[:-2]
            before += self._buffer[self._start : self._stop]
            if len(before) > _READ:
                raise InvalidResponse(f"a line of more than {_READ} bytes")
            self._start, self._stop = 0, self._receive(self._buffer)

    def _body(self, view: memoryview) -> None:
        done = min(view.nbytes, self._stop - self._start)
        view[:done] = self._buffer[self._start : self._start + done]
        self._start += done
        while done < view.nbytes:
            done += self._receive(view[done:])
        if self._line():
            raise InvalidResponse("a value is longer than its length")

    def reply(self, allocate: Callable[[int], memoryview] | None = None) -> Reply:
        """Read one reply.

        Parameters
        ----------
        allocate
            Returns the memory to receive bytes into; by default, the reply is
            ``bytes``.

        Returns
        -------
        object
            ``int``, ``bytes`` or memoryview, ``None``, a list, or an error.
        """
        line = self._line()
        kind, rest = line[:1], line[1:]
        try:
            if kind == b"$":
                if (nbytes := int(rest)) < 0:
                    return None
                view = allocate(nbytes) if allocate else memoryview(bytearray(nbytes))
                self._body(view)
                return view if allocate else bytes(view)
            if kind == b"+":
                return rest
            if kind == b":":
                return int(rest)
            if kind == b"*":
                count = int(rest)
                return None if count < 0 else [self.reply() for _ in range(count)]
        except ValueError as exc:
            raise InvalidResponse(f"a reply that begins with {line[:20]!r}") from exc
        if kind == b"-":
            return ResponseError(rest.decode(errors="replace"))
        raise InvalidResponse(f"a reply that begins with {line[:20]!r}")

    # Both

    def ask_all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands together and return their replies.

        Raises the first ``redis.exceptions.ResponseError`` among the replies; the
        server has carried out all commands.
        """
        replies = self.try_all(commands)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def try_all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands together and return their replies, errors included."""
        self.send(commands)
        return [self.reply() for _ in commands]

    def fetch(
        self, requests: Iterable[Request]
    ) -> list[memoryview | ResponseError | None]:
        """Return the replies to requests for bytes, a few outstanding at a time."""
        waiting: deque[Request] = deque()
        found: list[memoryview | ResponseError | None] = []
        flying = 0
        source = iter(requests)
        following = next(source, None)
        while following is not None or waiting:
            batch = []
            while (
                following is not None
                and len(waiting) < _PIPELINE
                and (not waiting or flying + following.nbytes <= _WINDOW)
            ):
                flying += following.nbytes
                waiting.append(following)
                batch.append(following.command)
                following = next(source, None)
            if batch:
                self.send(batch)
            request = waiting.popleft()
            found.append(self.reply(request.allocate))
            flying -= request.nbytes
        return found
