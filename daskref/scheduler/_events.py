"""Events and instructions of the scheduler's state machine, as plain data.

Objects are named by their keys, hosts by their identities, processes by worker
addresses and client ids.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from daskref.connectors.base import Key


class Holder(NamedTuple):
    """A holder of stored objects.

    ``key`` is a task whose graph node refers to them, ``bound`` a task that a user has
    bound them to, ``result`` a task whose result they are, ``lost`` a task whose result
    or value they were until a moment ago, ``client`` a client that may send them again.
    """

    #: ``"key"``, ``"bound"``, ``"result"``, ``"lost"`` or ``"client"``.
    kind: str
    #: The Dask key, or the client's id.
    name: Hashable


class Event:
    """An input of the machine."""


class Instruction:
    """An output of the machine."""


# Events: holders


@dataclass(frozen=True)
class Held(Event):
    """A holder holds objects; silent about those that it holds already."""

    holder: Holder
    #: Keys, with sizes in bytes.
    objects: tuple[tuple[Key, int], ...]
    #: Whether they are the result of a task that Dask can compute again.
    computable: bool = False


@dataclass(frozen=True)
class Put(Event):
    """A holder holds an object, as above, and the host in the key has it."""

    holder: Holder
    key: Key
    nbytes: int
    computable: bool = False


@dataclass(frozen=True)
class Released(Event):
    """A holder releases objects; silent about those that it does not hold."""

    holder: Holder
    #: ``None``: all that it holds.
    keys: tuple[Key, ...] | None = None


@dataclass(frozen=True)
class ResultReleased(Event):
    """A task's result is in no worker's memory any more."""

    task: Any
    #: Whether a client or task wants the result: Dask computes it again.
    wanted: bool


@dataclass(frozen=True)
class TaskForgotten(Event):
    """Dask has forgotten a task."""

    task: Any


@dataclass(frozen=True)
class ValueReplaced(Event):
    """A key stands for another value: it was scattered again."""

    task: Any
    #: The earlier value's objects.
    keys: tuple[Key, ...]
    #: Whether tasks may be about to read them.
    is_read: bool


@dataclass(frozen=True)
class KeepEnded(Event):
    """The time is over for which a ``lost`` holder keeps objects."""

    holder: Holder
    until: float


@dataclass(frozen=True)
class TasksCleared(Event):
    """Dask restarts and has no tasks any more."""


@dataclass(frozen=True)
class ReadOnce(Event):
    """The only reader of an object has it, and cannot delete it."""

    key: Key


@dataclass(frozen=True)
class Deleted(Event):
    """The scheduler's own store has deleted objects."""

    keys: tuple[Key, ...]
    #: Keys among them that could not be deleted.
    failed: tuple[Key, ...] = ()


# Events: hosts


@dataclass(frozen=True)
class Joined(Event):
    """A process is there, or reports a new host or endpoint."""

    process: str
    #: ``"worker"`` or ``"client"``.
    role: str
    host: str
    hostname: str
    #: ``tcp://address:port``; ``None``: it does not serve.
    endpoint: str | None = None
    #: Names of the objects that its host has already.
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left(Event):
    """A process is gone; silent about one that never joined."""

    process: str


@dataclass(frozen=True)
class Reconciled(Event):
    """It is time to compare the hosts' objects with the scheduler's table."""

    #: Seconds for which hosts keep an object that the scheduler does not know.
    grace: float


# Events: copies


@dataclass(frozen=True)
class SourceAsked(Event):
    """A process asks from which host to fetch an object; it is answered once.

    A process that asks again keeps its place.
    """

    process: str
    key: Key
    #: Endpoints from which it could not fetch the object.
    failed: tuple[str, ...] = ()
    #: Whether it gives up, and only asks what became of the object.
    last: bool = False


@dataclass(frozen=True)
class PatienceEnded(Event):
    """A process has waited long enough for an answer."""

    process: str
    key: Key
    until: float


@dataclass(frozen=True)
class Fetched(Event):
    """A process does not fetch an object any longer."""

    process: str
    key: Key
    #: Whether its host has a copy now.
    copied: bool


@dataclass(frozen=True)
class Supplied(Event):
    """A client has sent a sought object, or cannot."""

    #: Its answer counts even if another client was asked meanwhile.
    client: str
    key: Key
    #: The host that received the object; ``None``: the client could not send it.
    host: str | None


# Instructions


@dataclass(frozen=True)
class Delete(Instruction):
    """Delete objects without holders on all hosts."""

    #: All of them; empty if a deletion is tried once more.
    keys: tuple[Key, ...]
    #: Keys in the scheduler's own store; :class:`Deleted` is to follow.
    here: tuple[Key, ...]
    #: A host's processes, of which the first connected one is told, and keys there.
    elsewhere: tuple[tuple[tuple[str, ...], tuple[Key, ...]], ...] = ()


@dataclass(frozen=True)
class Send(Instruction):
    """Send a message to the first connected process of several."""

    to: tuple[str, ...]
    message: dict[str, Any]


@dataclass(frozen=True)
class Recompute(Instruction):
    """Let Dask compute again the results of tasks that it has in memory."""

    tasks: tuple[Any, ...]


@dataclass(frozen=True)
class Answer(Instruction):
    """Answer a process that asked for the source of an object.

    ``status`` is ``found``, with ``host`` and ``endpoints``; ``queued``: ask again;
    ``none``: only the failed ones; ``lost``, with ``reason`` and ``recomputed``;
    ``left``: the process does not take part any more.
    """

    process: str
    key: Key
    answer: dict[str, Any]
    #: :attr:`SourceAsked.last` of the request.
    last: bool = False


@dataclass(frozen=True)
class Later(Instruction):
    """Feed an event at a later time."""

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
