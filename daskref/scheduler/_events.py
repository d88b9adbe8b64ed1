"""What happens to stored objects, and what the scheduler does about it: plain data.

Events go into :class:`~daskref.scheduler._state.State`, instructions come out of it.
Objects go by their keys, hosts by their identities, processes by worker addresses and
client ids.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from daskref.connectors.base import Key


class Holder(NamedTuple):
    """Something that keeps stored objects alive.

    ``key`` is a Dask task whose graph node refers to them, ``bound`` one that a user
    has bound them to, ``result`` a Dask task whose result they are, ``lost`` one whose
    result or value they were until a moment ago, ``client`` a client that may send them
    again.
    """

    #: ``"key"``, ``"bound"``, ``"result"``, ``"lost"`` or ``"client"``.
    kind: str
    #: The Dask key, or the client's id.
    name: Hashable


class Event:
    """Something that has happened."""


class Instruction:
    """Something that is to be done."""


# Events: holders


@dataclass(frozen=True)
class Held(Event):
    """A holder holds objects; of a holder that does already, no news."""

    holder: Holder
    #: Keys, with sizes in bytes.
    objects: tuple[tuple[Key, int], ...]
    #: Whether they are the result of a task that Dask can compute again.
    computable: bool = False


@dataclass(frozen=True)
class Put(Event):
    """A holder holds an object, as above, and the host that the key names has it."""

    holder: Holder
    key: Key
    nbytes: int
    computable: bool = False


@dataclass(frozen=True)
class Released(Event):
    """A holder lets go of objects; silent about those that it does not hold."""

    holder: Holder
    #: ``None``: all that it holds.
    keys: tuple[Key, ...] | None = None


@dataclass(frozen=True)
class ResultReleased(Event):
    """A task's result is in no worker's memory any more."""

    task: Any
    #: Whether somebody wants the result: it is computed again.
    wanted: bool


@dataclass(frozen=True)
class TaskForgotten(Event):
    """A task is gone."""

    task: Any


@dataclass(frozen=True)
class ValueReplaced(Event):
    """A key stands for another value: it was scattered again."""

    task: Any
    #: What it stood for.
    keys: tuple[Key, ...]
    #: Whether tasks may be about to read that.
    is_read: bool


@dataclass(frozen=True)
class KeepEnded(Event):
    """The time is over for which objects were kept that nothing else held."""

    holder: Holder
    until: float


@dataclass(frozen=True)
class TasksCleared(Event):
    """There are no tasks any more: Dask restarts."""


@dataclass(frozen=True)
class ReadOnce(Event):
    """An object was read by its only reader, which cannot delete it itself."""

    key: Key


@dataclass(frozen=True)
class Deleted(Event):
    """The scheduler's own store has deleted objects."""

    keys: tuple[Key, ...]
    #: Those of them that could not be deleted.
    failed: tuple[Key, ...] = ()


# Events: hosts


@dataclass(frozen=True)
class Joined(Event):
    """A process is there, or says anew where it is and serves."""

    process: str
    #: ``"worker"`` or ``"client"``.
    role: str
    host: str
    #: What people call the host.
    hostname: str
    #: ``tcp://address:port``, where it serves; ``None``: it does not.
    endpoint: str | None = None
    #: Of the objects that its host has already.
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left(Event):
    """A process is gone; silent about one that never joined."""

    process: str


@dataclass(frozen=True)
class Reconciled(Event):
    """It is time to compare what hosts have with what the scheduler knows."""

    #: Seconds for which hosts leave an object alone that the scheduler does not know.
    grace: float


# Events: copies


@dataclass(frozen=True)
class SourceAsked(Event):
    """A process asks from which host to fetch an object, for its own host.

    It is answered once. A process that asks again keeps its place.
    """

    process: str
    key: Key
    #: Endpoints that could not give it the object.
    failed: tuple[str, ...] = ()
    #: It gives up: it only asks what became of the object.
    last: bool = False


@dataclass(frozen=True)
class PatienceEnded(Event):
    """A process has waited long enough for an answer."""

    process: str
    key: Key
    until: float


@dataclass(frozen=True)
class Fetched(Event):
    """A process fetches an object no longer, for its host."""

    process: str
    key: Key
    #: Whether its host has a copy now.
    copied: bool


@dataclass(frozen=True)
class Supplied(Event):
    """A client has sent an object that was wanted, or cannot."""

    #: If another one was asked by now, its word counts as well.
    client: str
    key: Key
    #: Where it has sent the object; ``None``: it could not.
    host: str | None


# Instructions


@dataclass(frozen=True)
class Delete(Instruction):
    """Delete objects that nothing holds, wherever they are."""

    #: All of them; empty if deleting is tried once more.
    keys: tuple[Key, ...]
    #: Those in the scheduler's own store. :class:`Deleted` is to follow.
    here: tuple[Key, ...]
    #: Those on other hosts: processes there, the first that is connected is to be told.
    elsewhere: tuple[tuple[tuple[str, ...], tuple[Key, ...]], ...] = ()


@dataclass(frozen=True)
class Send(Instruction):
    """Send a message to the first of some processes that is connected."""

    to: tuple[str, ...]
    message: dict[str, Any]


@dataclass(frozen=True)
class Recompute(Instruction):
    """Have Dask compute the results of tasks again, if it has them in memory."""

    tasks: tuple[Any, ...]


@dataclass(frozen=True)
class Answer(Instruction):
    """Answer a process that has asked for the source of an object.

    ``status`` is ``found``, with ``host`` and ``endpoints``; ``queued``: ask again;
    ``none``: none but those that failed; ``lost``, with ``reason`` and ``recomputed``;
    ``left``: it has no part in this any more.
    """

    process: str
    key: Key
    answer: dict[str, Any]
    #: Whether that was what it asked last.
    last: bool = False


@dataclass(frozen=True)
class Later(Instruction):
    """Let an event happen at a time."""

    when: float
    event: Event


@dataclass(frozen=True)
class Log(Instruction):
    """Put an event into Dask's log, under the package's topic."""

    event: dict[str, Any]


@dataclass(frozen=True)
class Warn(Instruction):
    """Log a warning."""

    text: str
