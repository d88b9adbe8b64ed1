"""The table of stored objects: holders, copies, transfers and losses of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from daskref.connectors.base import Key
from daskref.scheduler._events import Holder
from daskref.scheduler._hosts import Hosts

#: How many lost objects are remembered, to say what became of them.
REMEMBERED = 100_000


class Grant(NamedTuple):
    """A host's permission to fetch an object."""

    #: The host to ask.
    source: str
    #: The process that asked: the grant ends with it.
    process: str
    since: float


class Wait(NamedTuple):
    """A request without an answer yet."""

    until: float
    #: The status of the answer at that time.
    otherwise: str


@dataclass(slots=True)
class Reader:
    """A host that waits for a grant."""

    #: Asking process -> its request, the latest last; ``None``: told to ask again.
    processes: dict[str, Wait | None] = field(default_factory=dict)
    #: Hosts that it could not fetch from.
    avoid: frozenset[str] = frozenset()


class Lost(NamedTuple):
    """What became of an object that no host serves."""

    reason: str
    #: Whether it was the result of a task.
    recomputed: bool
    since: float


class Sought(NamedTuple):
    """A client that was asked to send an object."""

    client: str
    since: float
    #: Whether anything held it then; else it lives by a lease.
    held: bool


@dataclass(slots=True)
class StoredObject:
    """All that the scheduler knows of one object."""

    nbytes: int = 0
    #: When it became known.
    since: float = 0.0
    #: Holder -> whether it is a task whose result Dask can compute again.
    holders: dict[Holder, bool] = field(default_factory=dict)
    #: Host -> how many readers it was assigned so far.
    copies: dict[str, int] = field(default_factory=dict)
    #: Host -> its grant.
    grants: dict[str, Grant] = field(default_factory=dict)
    #: Host -> processes that wait there for a grant, first come, first served.
    readers: dict[str, Reader] = field(default_factory=dict)
    lost: Lost | None = None
    sought: Sought | None = None
    #: Clients that could not send it.
    refused: frozenset[str] = frozenset()
    #: Whether nothing held it when hosts were last compared with this table.
    stray: bool = False
    #: Whether the scheduler's own store is deleting it: ``"begun"`` or ``"failed"``.
    deletion: str | None = None

    @property
    def is_moving(self) -> bool:
        """Whether a process was asked for the object, or asks for it."""
        return bool(self.grants or self.readers or self.sought)


@dataclass(eq=False, repr=False)
class Table:
    """Stored objects by key, indexed by holder, host and state."""

    _hosts: Hosts
    objects: dict[Key, StoredObject] = field(default_factory=dict)
    held: dict[Holder, dict[Key, None]] = field(default_factory=dict)
    moving: dict[Key, None] = field(default_factory=dict)
    #: Objects that no host serves, the oldest first.
    lost: dict[Key, None] = field(default_factory=dict)
    #: The time of the current event.
    now: float = 0.0
    _touched: dict[Key, None] = field(default_factory=dict)

    def touch(self, key: Key) -> StoredObject:
        """Return an object that is about to change; create an unknown one."""
        self._touched[key] = None
        obj = self.objects.get(key)
        if obj is None:
            obj = self.objects[key] = StoredObject(since=self.now)
        return obj

    def touched(self) -> Iterator[Key]:
        """Yield objects that have changed, until there are none."""
        while self._touched:
            yield self._touched.popitem()[0]

    def forget_unused(self, key: Key) -> None:
        """Update the indexes; forget an object without holders, copies or transfers."""
        obj = self.objects[key]
        if obj.is_moving:
            self.moving[key] = None
        else:
            self.moving.pop(key, None)
        if not (obj.holders or obj.copies or obj.is_moving or obj.lost or obj.deletion):
            del self.objects[key]

    # Holders

    def hold(
        self, holder: Holder, key: Key, nbytes: int, computable: bool = False
    ) -> None:
        """Let a holder hold an object."""
        obj = self.touch(key)
        obj.nbytes = nbytes
        obj.holders[holder] = computable
        self.held.setdefault(holder, {})[key] = None

    def release(self, holder: Holder, keys: Iterable[Key] | None = None) -> list[Key]:
        """Release objects, by default all; return those without a holder now."""
        held = self.held.get(holder, {})
        freed = []
        for key in list(held) if keys is None else keys:
            if key in held:
                del held[key]
                obj = self.touch(key)
                del obj.holders[holder]
                if not obj.holders:
                    freed.append(key)
        if not held:
            self.held.pop(holder, None)
        return freed

    # Copies

    def add_copy(self, key: Key, host: str) -> None:
        """Record a host's copy; the host may be unknown."""
        self.touch(key).copies.setdefault(host, 0)
        self._hosts.keys(host)[key] = None

    def discard_copy(self, key: Key, host: str) -> None:
        """Forget a host's copy."""
        self.touch(key).copies.pop(host, None)
        self._hosts.keys(host).pop(key, None)

    def is_served(self, key: Key, avoid: Iterable[str] = ()) -> bool:
        """Tell whether a host outside *avoid* has an object and serves."""
        copies = self.objects[key].copies
        return any(self._hosts.endpoints(host) for host in copies if host not in avoid)

    # Losses

    def lose(self, key: Key, lost: Lost) -> None:
        """Record what became of an object that no host serves."""
        self.touch(key).lost = lost
        self.lost[key] = None
        while len(self.lost) > REMEMBERED:
            self.find(next(iter(self.lost)))

    def find(self, key: Key) -> None:
        """Record that an object is not lost; silent if it was not."""
        if key in self.lost:
            del self.lost[key]
            self.touch(key).lost = None
