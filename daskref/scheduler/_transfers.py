"""Transfers between hosts: which host fetches an object from which.

A popular object spreads as a tree: each host with a copy serves a few readers at a
time, which then serve others. With a fan-out of 2, N hosts have it after log3(N)
transfers.
"""

from __future__ import annotations

from dataclasses import dataclass

from daskref.connectors.base import Key
from daskref.scheduler._events import (
    Answer,
    Instruction,
    Later,
    PatienceEnded,
    SourceAsked,
)
from daskref.scheduler._hosts import Hosts
from daskref.scheduler._table import Grant, Reader, StoredObject, Table, Wait

#: Readers that one copy serves at a time.
FAN_OUT = 2
#: Seconds after which an unfinished reader counts no more: it may hang.
SLOW = 60.0
#: Seconds after which a waiting process is told to ask again.
PATIENCE = 1.0


@dataclass(eq=False, repr=False)
class Transfers:
    """Transfers under way, and the readers that wait for one."""

    _table: Table
    _hosts: Hosts
    #: Readers that one copy serves at a time.
    _fan_out: int

    def avoided(self, event: SourceAsked) -> frozenset[str]:
        """Return the hosts that a process could not fetch from."""
        copies = self._table.touch(event.key).copies
        serving = {host: self._hosts.endpoints(host) for host in copies}
        return frozenset(
            host
            for host, endpoints in serving.items()
            if endpoints and set(endpoints) <= set(event.failed)
        )

    def ask(
        self, event: SourceAsked, avoid: frozenset[str], otherwise: str
    ) -> list[Instruction]:
        """Answer a process once a host is free; with status *otherwise* if none is."""
        process, key, host = event.process, event.key, self._host(event.process)
        self._table.discard_copy(key, host)  # or it would not ask
        obj = self._table.touch(key)
        grant = obj.grants.get(host)
        if grant is not None:
            if grant.source not in avoid and self._hosts.endpoints(grant.source):
                obj.grants[host] = grant._replace(process=process)
                return [self._found(process, key, grant.source)]
            del obj.grants[host]
        reader = obj.readers.setdefault(host, Reader())
        reader.processes.pop(process, None)
        reader.processes[process] = wait = Wait(self._table.now + PATIENCE, otherwise)
        reader.avoid = avoid
        answers = self.settle(key)
        if host in obj.readers:
            answers.append(Later(wait.until, PatienceEnded(process, key, wait.until)))
        return answers

    def end_patience(self, event: PatienceEnded) -> list[Instruction]:
        """Tell a process that has waited for so long to ask again."""
        obj = self._table.objects.get(event.key)
        host = self._hosts.host_of(event.process)
        reader = None if obj is None else obj.readers.get(host or "")
        wait = None if reader is None else reader.processes.get(event.process)
        if reader is None or wait is None or wait.until != event.until:
            return []
        reader.processes[event.process] = None
        return [Answer(event.process, event.key, {"status": wait.otherwise})]

    def answered(self, event: SourceAsked) -> None:
        """Record that a process that has asked before has an answer."""
        reader = self._table.touch(event.key).readers.get(self._host(event.process))
        if reader is not None and event.process in reader.processes:
            reader.processes[event.process] = None

    def end(self, process: str, key: Key, copied: bool = False) -> list[Instruction]:
        """Record that a process neither fetches nor awaits an object any longer."""
        host = self._host(process)
        obj = self._table.touch(key)
        grant = obj.grants.get(host)
        # Or a neighbour has begun to fetch it meanwhile.
        if grant is not None and grant.process == process:
            del obj.grants[host]
            if copied:
                self._hosts.moved(grant.source, host, obj.nbytes)
        reader = obj.readers.get(host)
        if reader is None or process not in reader.processes:
            return []
        wait = reader.processes.pop(process)
        if not reader.processes:
            del obj.readers[host]
        return [] if wait is None else [self._again(process, key)]

    def dismiss(self, key: Key) -> list[Instruction]:
        """Tell all readers that wait for a deleted object to ask again."""
        obj = self._table.touch(key)
        return [each for host in list(obj.readers) for each in self._drop(key, host)]

    def settle(self, key: Key) -> list[Instruction]:
        """Let the readers that have waited longest fetch, as far as hosts are free."""
        obj = self._table.objects[key]
        if not obj.readers:
            return []
        answers: list[Instruction] = []
        for host in [host for host in obj.readers if host in obj.copies]:
            answers += self._drop(key, host)  # another process brought it: it may look
        load = self._load(obj)
        for host, reader in list(obj.readers.items()):
            free = [
                (at_all, obj.copies[source], source)
                for source, (at_all, lately) in load.items()
                if lately < self._fan_out and source not in reader.avoid
            ]
            if free:
                source = min(free)[2]
                load[source] = (load[source][0] + 1, load[source][1] + 1)
                obj.copies[source] += 1
                *_, latest = reader.processes
                obj.grants[host] = Grant(source, latest, self._table.now)
                answers += [
                    self._found(process, key, source)
                    for process, wait in obj.readers.pop(host).processes.items()
                    if wait is not None
                ]
        return answers

    def _load(self, obj: StoredObject) -> dict[str, tuple[int, int]]:
        """Return host -> its readers, and how many of them are not slow."""
        load = {host: (0, 0) for host in obj.copies if self._hosts.endpoints(host)}
        for grant in obj.grants.values():
            if grant.source in load:
                at_all, lately = load[grant.source]
                is_slow = grant.since <= self._table.now - SLOW
                load[grant.source] = (at_all + 1, lately + (not is_slow))
        return load

    def _drop(self, key: Key, host: str) -> list[Instruction]:
        reader = self._table.touch(key).readers.pop(host)
        waiting = [name for name, wait in reader.processes.items() if wait is not None]
        return [self._again(process, key) for process in waiting]

    def _found(self, process: str, key: Key, source: str) -> Instruction:
        endpoints = self._hosts.endpoints(source)
        answer = {"status": "found", "host": source, "endpoints": endpoints}
        return Answer(process, key, answer)

    @staticmethod
    def _again(process: str, key: Key) -> Instruction:
        return Answer(process, key, {"status": "queued"})

    def _host(self, process: str) -> str:
        return self._hosts.processes[process].host
