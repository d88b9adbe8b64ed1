"""Which hosts have which stored object, and who fetches it from whom.

A popular object spreads as a tree: whoever has a copy serves a few readers at a time,
then they serve others. With a fan-out of 2, N hosts have it after log3(N) transfers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from daskref.connectors.base import Key

#: Readers that one copy serves at a time.
FAN_OUT = 2
#: Seconds after which a reader that is not done counts no more: others wait for it.
SLOW = 60.0


class Grant(NamedTuple):
    """Leave to fetch an object."""

    #: The host to ask.
    source: str
    #: The process that asked for it: when it ends, so does the grant.
    process: str


@dataclass
class _Host:
    #: What people call it.
    hostname: str
    #: Process -> where it serves; ``None`` if it does not.
    processes: dict[str, str | None] = field(default_factory=dict)
    keys: set[Key] = field(default_factory=set)

    @property
    def endpoints(self) -> list[str]:
        return [each for each in self.processes.values() if each is not None]


@dataclass
class _Copy:
    """A host's copy of one object."""

    #: Host -> when it was given its turn.
    readers: dict[str, float] = field(default_factory=dict)
    sent: int = 0


@dataclass
class _Waiter:
    process: str
    avoid: Collection[str]
    granted: asyncio.Future[None]


class Locations:
    """Hosts, their processes, their copies, and the transfers under way.

    Parameters
    ----------
    fan_out
        Readers that one copy serves at a time.
    slow
        Seconds after which a reader that is not done counts no more: it may hang.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop. Objects go by their keys,
    hosts by their identities, processes by whatever tells them apart.
    """

    _hosts: dict[str, _Host]
    _host_of: dict[str, str]
    _copies: dict[Key, dict[str, _Copy]]
    _grants: dict[tuple[Key, str], Grant]
    _waiting: dict[Key, dict[str, _Waiter]]

    def __init__(self, fan_out: int = FAN_OUT, slow: float = SLOW) -> None:
        self._fan_out = fan_out
        self._slow = slow
        self._hosts = {}
        self._host_of = {}
        self._copies = {}
        self._grants = {}
        self._waiting = {}

    # Hosts

    def join(
        self, process: str, host: str, hostname: str, endpoint: str | None
    ) -> None:
        """Take note of a process, and where it serves its host's objects, if it does.

        Parameters
        ----------
        process
            What tells it apart.
        host, hostname
            Identity of its host, and what people call that.
        endpoint
            ``tcp://address:port``.
        """
        known = self._hosts.get(host)
        if known is None:
            # Of what it has, others may have told before.
            keys = {key for key, copies in self._copies.items() if host in copies}
            known = self._hosts[host] = _Host(hostname, keys=keys)
        known.processes[process] = endpoint
        self._host_of[process] = host
        for key in list(known.keys):
            self._serve(key)

    def leave(self, process: str) -> tuple[str, list[Key]]:
        """Forget a process, and what it was about to fetch.

        Returns
        -------
        tuple
            The key of its host, empty if there still is a process of it; objects of
            which no host has a copy now.
        """
        for (key, reader), grant in list(self._grants.items()):
            if grant.process == process:
                self._end_grant(key, reader)
        for key, waiters in list(self._waiting.items()):
            for reader in [r for r, each in waiters.items() if each.process == process]:
                waiters.pop(reader).granted.cancel()
            self._serve(key)
        host = self._host_of.pop(process, None)
        if host is None:
            return "", []
        known = self._hosts[host]
        del known.processes[process]
        if known.processes:
            return "", []
        lost = [key for key in known.keys if len(self._copies[key]) == 1]
        self.discard_copies(host, list(known.keys))
        del self._hosts[host]
        return known.hostname, lost

    def hosts(self) -> list[str]:
        """Return the hosts of which there is a process."""
        return list(self._hosts)

    def host_of(self, process: str) -> str | None:
        """Return the identity of a process's host."""
        return self._host_of.get(process)

    def processes(self, host: str) -> list[str]:
        """Return a host's processes, those that serve first."""
        known = self._hosts.get(host)
        if known is None:
            return []
        return sorted(known.processes, key=lambda each: known.processes[each] is None)

    def serves(self, process: str) -> bool:
        """Tell whether a process serves."""
        host = self._host_of.get(process)
        return host is not None and self._hosts[host].processes[process] is not None

    def endpoints(self, host: str) -> list[str]:
        """Return where a host's processes serve."""
        known = self._hosts.get(host)
        return [] if known is None else known.endpoints

    # Copies

    def __contains__(self, key: Key) -> bool:
        return key in self._copies

    def __iter__(self) -> Iterator[Key]:
        return iter(self._copies)

    def add(self, key: Key, host: str) -> None:
        """Take note of a host's copy; of a host of which nobody is known, too."""
        copies = self._copies.setdefault(key, {})
        if host not in copies:
            copies[host] = _Copy()
            if host in self._hosts:
                self._hosts[host].keys.add(key)
            if waiter := self._waiting.get(key, {}).pop(host, None):
                waiter.granted.cancel()  # another process brought it: it may look
            self._serve(key)

    def discard(self, keys: Iterable[Key]) -> dict[str, list[Key]]:
        """Forget objects.

        Returns
        -------
        dict
            Host -> which of them it has.
        """
        found: dict[str, list[Key]] = {}
        for key in keys:
            for host in self._copies.pop(key, ()):
                found.setdefault(host, []).append(key)
                if host in self._hosts:
                    self._hosts[host].keys.discard(key)
            for waiter in self._waiting.pop(key, {}).values():
                waiter.granted.cancel()
        return found

    def discard_copies(self, host: str, keys: Iterable[Key]) -> None:
        """Forget a host's copies; an object without any is forgotten."""
        for key in keys:
            copies = self._copies.get(key, {})
            copies.pop(host, None)
            if not copies:
                self._copies.pop(key, None)
            if host in self._hosts:
                self._hosts[host].keys.discard(key)

    def copies(self, key: Key) -> list[str]:
        """Return the hosts that have an object."""
        return list(self._copies.get(key, ()))

    def keys(self, host: str) -> set[Key]:
        """Return what a host has."""
        known = self._hosts.get(host)
        return set() if known is None else set(known.keys)

    def is_served(self, key: Key, avoid: Collection[str] = ()) -> bool:
        """Tell whether a host, none of some, has an object and serves."""
        return any(
            host not in avoid and self.endpoints(host)
            for host in self._copies.get(key, ())
        )

    # Transfers

    async def source(
        self, key: Key, process: str, avoid: Collection[str], patience: float
    ) -> str | None:
        """Return the host from which a process is to fetch an object, once one is free.

        Parameters
        ----------
        key
            The object.
        process
            Who wants it, for its host. A process that asks again keeps its place.
        avoid
            Hosts that it could not fetch from.
        patience
            Seconds to wait.

        Returns
        -------
        str or None
            ``None``: none yet, ask again.
        """
        reader = self._host_of[process]
        self.discard_copies(reader, [key])  # or it would not ask
        grant = self._grants.get((key, reader))
        if grant is not None:
            if grant.source not in avoid and self.endpoints(grant.source):
                self._grants[key, reader] = Grant(grant.source, process)
                return grant.source
            self._end_grant(key, reader)
        waiters = self._waiting.setdefault(key, {})
        waiter = waiters.get(reader)
        if waiter is None or waiter.granted.done():
            loop = asyncio.get_running_loop()
            waiters[reader] = waiter = _Waiter(process, avoid, loop.create_future())
        waiter.process, waiter.avoid = process, avoid
        self._serve(key)
        await asyncio.wait([waiter.granted], timeout=patience)
        grant = self._grants.get((key, reader))
        return None if grant is None else grant.source

    def finished(self, key: Key, process: str, copied: bool) -> None:
        """Take note that a process's fetch has ended.

        Parameters
        ----------
        key
            The object.
        process
            Who fetched it.
        copied
            Whether its host has a copy now.
        """
        reader = self._host_of.get(process)
        if reader is None:
            return
        if copied:
            self.add(key, reader)
        waiters = self._waiting.get(key, {})
        if reader in waiters and waiters[reader].process == process:
            waiters.pop(reader).granted.cancel()
            self._serve(key)
        grant = self._grants.get((key, reader))
        # Or a neighbour has begun to fetch it meanwhile.
        if grant is not None and grant.process == process:
            self._end_grant(key, reader)

    def sent(self, key: Key) -> dict[str, int]:
        """Return how many readers each host with a copy was given so far."""
        return {host: copy.sent for host, copy in self._copies.get(key, {}).items()}

    def _end_grant(self, key: Key, reader: str) -> None:
        grant = self._grants.pop((key, reader), None)
        if grant is not None:
            copy = self._copies.get(key, {}).get(grant.source)
            if copy is not None:
                copy.readers.pop(reader, None)
            self._serve(key)

    def _serve(self, key: Key) -> None:
        """Let those who have waited longest fetch, as far as there is somebody free."""
        waiters = self._waiting.get(key)
        if waiters is None:
            return
        for reader, waiter in list(waiters.items()):
            source = self._choose(key, reader, waiter.avoid)
            if source is None:
                continue
            del waiters[reader]
            copy = self._copies[key][source]
            copy.readers[reader] = time.monotonic()
            copy.sent += 1
            self._grants[key, reader] = Grant(source, waiter.process)
            if not waiter.granted.done():
                waiter.granted.set_result(None)
        if not waiters:
            del self._waiting[key]

    def _choose(self, key: Key, reader: str, avoid: Collection[str]) -> str | None:
        since = time.monotonic() - self._slow
        free = [
            (len(copy.readers), copy.sent, host)
            for host, copy in self._copies.get(key, {}).items()
            if sum(begun > since for begun in copy.readers.values()) < self._fan_out
            and host != reader
            and host not in avoid
            and self.endpoints(host)
        ]
        return min(free)[2] if free else None
