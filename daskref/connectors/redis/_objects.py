"""Objects in a Redis server, each visible as a whole or not at all.

A small object is one string. A larger one consists of strings of one chunk each,
written first, and a hash that names them, written last. Reading requests pieces of
about a megabyte, a few at a time, whatever the size of the chunks: the server copies
each reply, and copies of that size stay in its caches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from redis.exceptions import ResponseError

from daskref.connectors.redis._session import RedisSession
from daskref.connectors.redis._wire import Command, Request, Wire
from daskref.connectors.redis._wire import writable as allocate
from daskref.exceptions import WireError

#: Bytes asked for at once.
_PIECE = 2**20
#: Attempts to find an object that is moved meanwhile.
_LOOKS = 5
#: After the prefix: session, and name within it.
_OWN = re.compile(r"([0-9a-f]{32}):([0-9a-f]{8}-[0-9a-f]{24})")


class RedisKey(NamedTuple):
    """Key of an object in a Redis server."""

    #: Key of the object in the server: prefix, session, and a unique name, whose first
    #: 8 digits are the writer's.
    redis_key: str
    #: Size of the object in bytes; -1 if it was not known when the key was made.
    nbytes: int = -1


class Found(NamedTuple):
    """The parts of a key."""

    #: In the server.
    key: bytes
    #: Of the session, with the final colon.
    root: bytes
    #: Within the session.
    name: str
    #: -1 if it is not known.
    nbytes: int


def checked(key: object, prefix: str) -> Found:
    """Return the parts of a key.

    Raises WireError if no connector with this *prefix* made the key.
    """
    if isinstance(key, tuple) and type(key) in (tuple, RedisKey) and len(key) == 2:
        text, nbytes = key
        start = f"{prefix}:"
        if (
            isinstance(text, str)
            and text.startswith(start)
            and (found := _OWN.fullmatch(text, len(start)))
            and type(nbytes) is int
            and nbytes >= -1
        ):
            root = f"{start}{found[1]}:".encode()
            return Found(text.encode(), root, found[2], nbytes)
    raise WireError(f"{key!r} is not a RedisKey with the prefix {prefix!r}")


# Writing


def write(
    session: RedisSession, name: str, views: Sequence[memoryview], chunk: int
) -> list[Command]:
    """Return the commands that write an object, in strings of up to *chunk* bytes."""
    root, index, ttl = session.root, session.root + b"index", b"%d" % session.ttl
    nbytes = sum(view.nbytes for view in views)
    key = root + name.encode()
    chunks = -(-nbytes // chunk) if nbytes > chunk else 0
    base = name if chunks else ""
    entry = b"%d %d %d %b" % (nbytes, session.now(), chunks, base.encode())
    lives = [b"PX", ttl] if session.ttl else []
    # The index first, so that a partly written object can be found.
    commands: list[Command] = [[b"HSET", index, name.encode(), entry]]
    if session.ttl:
        commands.append([b"PEXPIRE", index, ttl])
    if not chunks:
        return [*commands, [b"SET", key, views, *lives]]
    for number, part in enumerate(_cut(views, chunk)):
        commands.append([b"SET", key + b".%d" % number, part, *lives])
    fields = {b"base": base.encode(), b"chunks": b"%d" % chunks}
    fields |= {b"chunk": b"%d" % chunk, b"size": b"%d" % nbytes}
    commands.append([b"HSET", key, *(item for pair in fields.items() for item in pair)])
    if session.ttl:
        commands.append([b"PEXPIRE", key, ttl])
    return commands


def _cut(views: Sequence[memoryview], chunk: int) -> Iterator[list[memoryview]]:
    part: list[memoryview] = []
    room = chunk
    for view in views:
        while view.nbytes:
            part.append(view[:room])
            view, room = view[room:], room - part[-1].nbytes
            if not room:
                yield part
                part, room = [], chunk
    if part:
        yield part


# Reading


class _Layout(NamedTuple):
    """Location of an object's bytes."""

    nbytes: int
    #: (key, bytes in it) in order.
    strings: list[tuple[bytes, int]]


def read(wire: Wire, wanted: Sequence[Found]) -> list[memoryview | None]:
    """Return objects, in the same order; ``None`` for each that is missing.

    Raises WireError if one has another size than its key says;
    redis.exceptions.ResponseError if the server replied an error.
    """
    result: list[memoryview | None] = [None] * len(wanted)
    small = [n for n, each in enumerate(wanted) if 0 <= each.nbytes <= _PIECE]
    left = sorted(set(range(len(wanted))) - set(small))
    requests = (
        Request([b"GET", wanted[n].key], wanted[n].nbytes, allocate) for n in small
    )
    for n, reply in zip(small, wire.fetch(requests), strict=True):
        if _is_of_another_type(reply):
            left.append(n)
        elif isinstance(reply, memoryview):
            result[n] = reply
    for _ in range(_LOOKS):
        # 1. This process looks up the strings of an object. 2. Another one links or
        # evicts the object. 3. This process finds fewer bytes in those strings.
        left = _read_large(wire, wanted, left, result) if left else left
    for each, view in zip(wanted, result, strict=True):
        if view is not None and each.nbytes not in (-1, view.nbytes):
            raise WireError(
                f"{each.key.decode()} has {view.nbytes} bytes, its key says "
                f"{each.nbytes}: it was not written by daskref, or was changed since"
            )
    return result


def _read_large(
    wire: Wire,
    wanted: Sequence[Found],
    left: list[int],
    result: list[memoryview | None],
) -> list[int]:
    """Read the objects *left*; return the indices of those that were incomplete."""
    layouts = _layouts(wire, [wanted[n] for n in left])
    there = {n: found for n, found in zip(left, layouts, strict=True) if found}
    views = {n: allocate(layout.nbytes) for n, layout in there.items()}
    pieces = [
        (n, request) for n in there for request in _pieces(there[n].strings, views[n])
    ]
    replies = wire.fetch(request for _, request in pieces)
    partial = []
    for (n, request), reply in zip(pieces, replies, strict=True):
        _is_of_another_type(reply)  # then it is partial, too
        if not isinstance(reply, memoryview) or reply.nbytes != request.nbytes:
            partial.append(n)
    for n in views.keys() - set(partial):
        result[n] = views[n]
    return sorted(set(partial))


def _layouts(wire: Wire, wanted: Sequence[Found]) -> list[_Layout | None]:
    fields = [b"base", b"chunks", b"chunk", b"size"]
    commands: list[Command] = []
    for each in wanted:
        commands += [[b"HMGET", each.key, *fields], [b"STRLEN", each.key]]
    replies = wire.try_all(commands)
    layouts: list[_Layout | None] = []
    for each, manifest, length in zip(wanted, replies[::2], replies[1::2], strict=True):
        if _is_of_another_type(manifest):  # a string
            # Or it has just become a hash, which the next attempt finds.
            nbytes = 1 if _is_of_another_type(length) else length
            layouts.append(_Layout(nbytes, [(each.key, nbytes)]))
        elif manifest[0] is None:
            layouts.append(None)
        else:
            base, (chunks, chunk, size) = manifest[0], map(int, manifest[1:])
            sizes = [min(chunk, size - number * chunk) for number in range(chunks)]
            names = [each.root + base + b".%d" % number for number in range(chunks)]
            layouts.append(_Layout(size, list(zip(names, sizes, strict=True))))
    return layouts


def _pieces(strings: list[tuple[bytes, int]], view: memoryview) -> Iterator[Request]:
    done = 0
    for key, nbytes in strings:
        for start in range(0, nbytes, _PIECE):
            stop = min(start + _PIECE, nbytes)
            command = [b"GETRANGE", key, b"%d" % start, b"%d" % (stop - 1)]
            into = view[done + start : done + stop]
            yield Request(command, stop - start, _into(into))
        done += nbytes


def _into(view: memoryview) -> Callable[[int], memoryview]:
    def fitting(nbytes: int) -> memoryview:
        return view if nbytes == view.nbytes else allocate(nbytes)

    return fitting


def _is_of_another_type(reply: object) -> bool:
    """Tell whether a reply says that the key is of another type; raise other errors."""
    if isinstance(reply, ResponseError):
        if not str(reply).startswith("WRONGTYPE"):
            raise reply
        return True
    return False
