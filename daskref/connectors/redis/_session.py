"""One process's part in a session that a Redis server keeps.

Each participant counts as alive for the time of its lease, which a thread renews. The
objects have a time to live as well, which one of the participants renews for all: when
all participants have been killed, the server deletes the objects.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from daskref.background import Background, forget_in_child, make_lock
from daskref.connectors.processes import has_ended, load_record, this_process
from daskref.connectors.redis._scripts import ALIVE, BEAT, DROP, DUE, LEAVE
from daskref.connectors.redis._server import Server
from daskref.connectors.redis._wire import Command, Reply
from daskref.connectors.sweeping import Row, is_due
from daskref.exceptions import ConnectorError, ConnectorUnavailableError

#: Objects looked at, renewed or deleted in one round trip.
_BATCH = 500


class Entry(NamedTuple):
    """An object's entry in the index."""

    name: str
    nbytes: int
    #: Milliseconds since 1970, by the server's clock.
    created: int
    #: Number of chunks, and the name that their keys begin with.
    chunks: int
    base: str

    def keys(self, root: bytes) -> list[bytes]:
        """Return the object's own key and those of its chunks."""
        base = root + self.base.encode()
        chunks = [base + b".%d" % number for number in range(self.chunks)]
        return [root + self.name.encode(), *chunks]


def script(source: str, root: bytes, *arguments: str | int | bytes) -> Command:
    """Return the command that runs a script on a session."""
    encoded = [a if isinstance(a, bytes) else str(a).encode() for a in arguments]
    return [b"EVAL", source.encode(), b"1", root, *encoded]


class RedisSession:
    """One process's part in a session. Thread-safe.

    Raises ConnectorError if the server cannot be used, or has no such session.

    Parameters
    ----------
    server
        Closed by :meth:`leave`.
    name
        32 hexadecimal digits; ``None`` for a new session.
    clear
        Whether the last participant deletes the objects. Otherwise they have no time to
        live.
    options
        ``prefix`` of all keys; ``lease`` and ``ttl``: seconds for which a participant,
        and an object, live without renewal.
    """

    name: str
    #: Prefix of the session's keys.
    root: bytes
    #: Whether leaving as the last one deletes the objects.
    clear: bool
    #: Milliseconds that keys live; 0: for ever.
    ttl: int
    #: 8 hexadecimal digits of this participant; new in a forked child.
    writer: str

    def __init__(
        self, server: Server, name: str | None, clear: bool, options: Mapping[str, Any]
    ) -> None:
        self.server = server
        self.name = name or secrets.token_hex(16)
        self.root = f"{options['prefix']}:{self.name}:".encode()
        self.clear = clear
        self.ttl = max(1, round(options["ttl"] * 1000)) if clear else 0
        self.writer = ""
        self._lease: int = max(1, round(options["lease"] * 1000))
        self._offset = 0
        self._unfinished: deque[tuple[bytes | None, str]] = deque(maxlen=10_000)
        self._lock = make_lock()
        self._background = Background(self._keep_alive, "daskref-redis")
        self._joined = False
        forget_in_child(self)
        self._join(must_exist=name is not None)

    # Presence

    def ensure(self) -> None:
        """Join, unless this process has joined; raises as the constructor does."""
        if not self._joined:
            with self._lock:
                if not self._joined:
                    self._join(must_exist=True)

    def _join(self, must_exist: bool) -> None:
        self.writer = secrets.token_hex(4)
        if self._beat(must_exist=must_exist) is None:
            raise ConnectorUnavailableError(
                self.server.name,
                f"session {self.name} has ended, or is on another server",
            )
        self._joined = True
        self._background.start(after=self._interval)

    def _beat(self, must_exist: bool = False) -> Reply:
        renewal = max(1, self.ttl // 3)
        arguments = self.writer, self._lease, self.ttl, renewal, int(must_exist)
        command = script(BEAT, self.root, *arguments, json.dumps(this_process()))
        found = self.server.ask(command)
        if found is not None:
            self._offset = int(found[0]) - round(time.monotonic() * 1000)
        return found

    def _keep_alive(self) -> float:
        with suppress(ConnectorError):  # it is tried again
            if self._beat()[1]:
                self._renew_objects()
            while self._unfinished:
                root, name = self._unfinished[0]
                self.drop([name], root=root)
                self._unfinished.popleft()
        return self._interval

    @property
    def _interval(self) -> float:
        return min(self._lease, self.ttl or self._lease) / 4000

    def _renew_objects(self) -> None:
        ttl = b"%d" % self.ttl
        for entries in self._scan(b"index"):
            commands: list[Command] = [
                [b"PEXPIRE", key, ttl]
                for entry in entries
                for key in entry.keys(self.root)
            ]
            self.server.ask_all(commands)

    # Looking

    def now(self) -> int:
        """Return the server's time in milliseconds, as far as this process knows it."""
        return self._offset + round(time.monotonic() * 1000)

    def alive(self) -> tuple[int, set[str]]:
        """Return the server's time, and the participants that are alive."""
        time, *found = self.server.ask(script(ALIVE, self.root))
        return int(time), {writer.decode() for writer in found}

    def entries(self) -> Iterable[Entry]:
        """Return the entries of the index."""
        # a scan may return an entry twice
        return {e.name: e for found in self._scan(b"index") for e in found}.values()

    def _scan(self, name: bytes, *, patient: bool = True) -> Iterator[list[Entry]]:
        cursor, batch = b"0", b"%d" % _BATCH
        while True:
            command = [b"HSCAN", self.root + name, cursor, b"COUNT", batch]
            cursor, found = self.server.ask(command, patient=patient)
            pairs = zip(found[::2], found[1::2], strict=True)
            yield [_entry(name.decode(), value.decode()) for name, value in pairs]
            if cursor == b"0":
                return

    # Changing

    def drop(
        self,
        names: list[str],
        condition: str = "any",
        *,
        root: bytes | None = None,
        patient: bool = False,
    ) -> list[tuple[str, int]]:
        """Delete objects, by default of this session; return those that existed."""
        dropped: list[tuple[str, int]] = []
        for start in range(0, len(names), _BATCH):
            part = names[start : start + _BATCH]
            found = self.server.ask(
                script(DROP, root or self.root, condition, *part), patient=patient
            )
            pairs = zip(found[::2], found[1::2], strict=True)
            dropped += [(name.decode(), int(size)) for name, size in pairs]
        return dropped

    def abandon(self, names: list[str], root: bytes | None = None) -> None:
        """Delete objects, complete or not; after an error the thread tries again."""
        try:
            self.drop(names, root=root)
        except ConnectorError:
            self._unfinished.extend((root, name) for name in names)

    def sweep(self, owned: set[str] | None, grace: float) -> list[tuple[str, int]]:
        """Delete expired leases and orphans; return names and sizes of those deleted.

        *owned*: see :meth:`Connector.sweep`.
        """
        due = [name.decode() for name in self.server.ask(script(DUE, self.root))]
        due = [name for name in due if not owned or name not in owned]
        swept = self.drop(due, "due", patient=True)
        if owned is None:
            return swept
        now, alive = self.alive()
        rows = [
            Row(each.name, (now - each.created) / 1000, None, each.name[:8])
            for each in self.entries()
        ]
        orphans = [
            row.name
            for row in rows
            if is_due(row, owned, grace, now / 1000, lambda each: each not in alive)
        ]
        # The server keeps those that have a lease by now.
        return swept + self.drop(orphans, "unleased", patient=True)

    # The end

    def leave(self) -> None:
        """End this process's part; the last one deletes the objects. Idempotent.

        Silent if the server cannot be reached: it deletes the objects by itself.
        """
        with self._lock:
            joined, self._joined = self._joined, False
        if not joined:
            return
        self._background.stop(5.0)
        with suppress(ConnectorError):
            ended, *left = self._leave([self.writer])
            if not ended and (gone := _gone(left)):
                ended, *left = self._leave(gone)
            if ended:
                self._clear()
        self.server.close()

    def _leave(self, writers: list[str]) -> Reply:
        ttl = max(self.ttl, 60_000)
        command = script(LEAVE, self.root, int(self.clear), ttl, *writers)
        return self.server.ask(command, patient=False)

    def _clear(self) -> None:
        for entries in self._scan(b"index.gone", patient=False):
            for entry in entries:
                keys = entry.keys(self.root)
                for start in range(0, len(keys), _BATCH):
                    self._unlink(keys[start : start + _BATCH])
        self._unlink([self.root + b"index.gone"])

    def _unlink(self, keys: list[bytes]) -> None:
        self.server.ask([b"UNLINK", *keys], patient=False)

    def forget(self) -> None:
        """Take no part any more, in a forked child; the parent continues."""
        self._joined = False
        self._unfinished = deque(maxlen=10_000)

    def __repr__(self) -> str:
        return f"<RedisSession {self.name}>"


def _gone(left: list[bytes]) -> list[str]:
    """Return the participants that are known to have been killed."""
    pairs = zip(left[::2], left[1::2], strict=True)
    return [writer.decode() for writer, at in pairs if has_ended(load_record(at))]


def _entry(name: str, value: str) -> Entry:
    size, created, chunks, base = value.split(" ", 3)
    return Entry(name, int(size), int(created), int(chunks), base)
