"""The state machine of stored objects, without I/O.

It takes events with the time at which they happen, and returns instructions. It has no
clock, no event loop and nothing of Dask's:
:class:`~daskref.scheduler._dispatcher.Dispatcher` feeds it and carries them out.
"""

from __future__ import annotations

from functools import singledispatchmethod
from typing import Any

from daskref.connectors.base import Key
from daskref.scheduler import _events as events
from daskref.scheduler._events import Event, Holder, Instruction
from daskref.scheduler._hosts import Hosts, Process
from daskref.scheduler._losses import Losses
from daskref.scheduler._table import StoredObject, Table
from daskref.scheduler._transfers import FAN_OUT, Transfers

#: Kinds of holders that end when a task is forgotten.
ENDING = ("key", "bound", "lost")
#: The name of the scheduler's own process.
SCHEDULER = "scheduler"
#: Seconds for which a lost result stays in the store while it is computed again, since
#: a process that just got its reference may be about to read it.
LOST = 10.0
#: The same of a value that was replaced by another one under its key.
REPLACED = 1.0
#: Seconds for which the machine remembers what became of an object without holders.
FORGOTTEN = 3600.0


class State:
    """The objects of a session, and its hosts.

    An object is deleted once, on all hosts, when its last holder releases it. An object
    that never had a holder lives by a lease, and is remembered for a while.

    Parameters
    ----------
    home
        The scheduler's host; empty if all processes share one store. Then no process
        joins, and copies are not counted.
    fan_out
        Readers that one copy serves at a time.
    lazily
        Whether workers serve only once processes are on more than one host.
    """

    objects: dict[Key, StoredObject]
    #: Holder -> its objects.
    held: dict[Holder, dict[Key, None]]
    #: Objects that a process was asked for, or asks for.
    moving: dict[Key, None]
    hosts: Hosts
    #: Workers that were asked to serve and have not confirmed it.
    starting: set[str]

    def __init__(
        self, home: str = "", fan_out: int = FAN_OUT, lazily: bool = False
    ) -> None:
        self.home = home
        self.hosts = Hosts()
        self.starting = set()
        self._lazily = lazily
        self._table = Table(self.hosts)
        self.objects, self.held = self._table.objects, self._table.held
        self.moving = self._table.moving
        self._transfers = Transfers(self._table, self.hosts, fan_out)
        self._losses = Losses(self._table, self.hosts)
        self._kept: dict[Holder, float] = {}
        if home:
            self.hosts.join(SCHEDULER, Process(home, "scheduler"), "the scheduler's")

    # Contents

    @property
    def known(self) -> list[Key]:
        """Keys that are held, or that the scheduler's own store is deleting."""
        return [k for k, obj in self.objects.items() if obj.holders or obj.deletion]

    @property
    def sizes(self) -> list[int]:
        """Sizes of all held objects in bytes."""
        return [obj.nbytes for obj in self.objects.values() if obj.holders]

    def copies(self, key: Key) -> list[tuple[str, list[str]]]:
        """Return the hosts with an object, its writer first, and their endpoints."""
        obj = self.objects.get(key)
        hosts = dict.fromkeys([key[2], *(() if obj is None else obj.copies)])
        return [(host, self.hosts.endpoints(host)) for host in hosts]

    # Events

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Apply an event that happens at *now*, in seconds of a monotonic clock.

        Returns the instructions to carry out, in order.
        """
        self._table.now = now
        instructions = self._handle(event)
        for key in self._table.touched():
            instructions += self._transfers.settle(key)
            self._table.forget_unused(key)
        return instructions

    @singledispatchmethod
    def _handle(self, event: Any) -> list[Instruction]:
        raise TypeError(event)

    # Holders

    @_handle.register
    def _on_held(self, event: events.Held) -> list[Instruction]:
        for key, nbytes in event.objects:
            self._table.hold(event.holder, key, nbytes, event.computable)
        return []

    @_handle.register
    def _on_put(self, event: events.Put) -> list[Instruction]:
        key = event.key
        self._table.hold(event.holder, key, event.nbytes, event.computable)
        if not self.home:
            return []
        host = key[2]
        if host in self.hosts.hosts:
            self._table.add_copy(key, host)
        elif not self.objects[key].copies:  # that was its last message
            return self._losses.lose(host[:8], [key])
        return []

    @_handle.register
    def _on_released(self, event: events.Released) -> list[Instruction]:
        return self._delete(self._table.release(event.holder, event.keys))

    @_handle.register
    def _on_result_released(self, event: events.ResultReleased) -> list[Instruction]:
        holder = Holder("result", event.task)
        kept: list[Instruction] = []
        if event.wanted:
            kept = self._keep(event.task, list(self.held.get(holder, ())), LOST)
        return kept + self._let_go(holder)

    @_handle.register
    def _on_value_replaced(self, event: events.ValueReplaced) -> list[Instruction]:
        kept: list[Instruction] = []
        for key in event.keys:
            if key in self.objects and self.objects[key].holders:
                kept += self._keep(key, [key], LOST if event.is_read else REPLACED)
        freed = self._table.release(Holder("key", event.task), event.keys)
        return kept + self._delete(freed)

    @_handle.register
    def _on_keep_ended(self, event: events.KeepEnded) -> list[Instruction]:
        if self._kept.get(event.holder) != event.until:
            return []  # it was kept anew, or has gone
        return self._let_go(event.holder)

    @_handle.register
    def _on_task_forgotten(self, event: events.TaskForgotten) -> list[Instruction]:
        return self._let_go(*[Holder(kind, event.task) for kind in ENDING])

    @_handle.register
    def _on_tasks_cleared(self, event: events.TasksCleared) -> list[Instruction]:
        kinds = (*ENDING, "result")
        return self._let_go(*[each for each in self.held if each.kind in kinds])

    @_handle.register
    def _on_read_once(self, event: events.ReadOnce) -> list[Instruction]:
        return [] if self._table.touch(event.key).holders else self._delete([event.key])

    @_handle.register
    def _on_deleted(self, event: events.Deleted) -> list[Instruction]:
        for key in event.keys:
            self._table.touch(key).deletion = "failed" if key in event.failed else None
        return []

    def _let_go(self, *holders: Holder) -> list[Instruction]:
        freed: list[Key] = []
        for holder in holders:
            self._kept.pop(holder, None)
            freed += self._table.release(holder)
        return self._delete(freed)

    def _keep(self, name: Any, keys: list[Key], seconds: float) -> list[Instruction]:
        """Hold objects for some seconds, from now on."""
        if not keys:
            return []
        holder = Holder("lost", name)
        for key in keys:
            obj = self.objects[key]
            computable = obj.holders.get(Holder("result", name), False)
            self._table.hold(holder, key, obj.nbytes, computable)
        self._kept[holder] = until = self._table.now + seconds
        return [events.Later(until, events.KeepEnded(holder, until))]

    def _delete(self, keys: list[Key]) -> list[Instruction]:
        here: list[Key] = []
        elsewhere: dict[str, list[Key]] = {}
        answers: list[Instruction] = []
        for key in keys:
            obj = self._table.touch(key)
            # An object without a report was put on the host in its key.
            for host in (obj.copies or [key[2]]) if self.home else [self.home]:
                if host == self.home:
                    here.append(key)
                    obj.deletion = "begun"
                else:
                    elsewhere.setdefault(host, []).append(key)
            for host in list(obj.copies):
                self._table.discard_copy(key, host)
            answers += self._transfers.dismiss(key)
        if not keys:
            return []
        found = [(self.hosts.on(host), tuple(each)) for host, each in elsewhere.items()]
        return [events.Delete(tuple(keys), tuple(here), tuple(found)), *answers]

    # Hosts

    @_handle.register
    def _on_joined(self, event: events.Joined) -> list[Instruction]:
        process, host = event.process, event.host
        instructions: list[Instruction] = []
        was_asked = process in self.starting
        is_first = event.endpoint is not None and not self.hosts.endpoints(host)
        if self.hosts.host_of(process) not in (None, host):
            instructions += self._leave(process)  # it made its session directory anew
        self.starting.discard(process)
        if host in self.hosts.hosts:
            keys = self.hosts.keys(host)
        else:  # other processes may have reported copies on it
            come = {"action": "add-host", "host": event.hostname}
            instructions.append(events.Log(come))
            objects = self.objects.items()
            keys = dict.fromkeys(k for k, obj in objects if host in obj.copies)
        known = self.hosts.join(
            process, Process(host, event.role, event.endpoint), event.hostname
        )
        known.keys |= keys
        for key in known.keys:
            if key in self._table.moving:
                self._table.touch(key)
        there = set(event.names)
        for key in [key for key in self.objects if key[0] in there] if there else ():
            if self.objects[key].holders:
                self._table.find(key)
                self._table.add_copy(key, host)
        if event.role == "worker":
            instructions += self._tell_clients(host)
        if event.endpoint is None and not was_asked:
            instructions += self._begin_serving()
        if is_first:
            instructions += self._losses.seek_all()
        return instructions

    @_handle.register
    def _on_left(self, event: events.Left) -> list[Instruction]:
        return self._leave(event.process)

    def _leave(self, name: str) -> list[Instruction]:
        self.starting.discard(name)
        process = self.hosts.processes.get(name)
        if process is None:
            return []
        instructions: list[Instruction] = []
        moving = list(self._table.moving)
        for key in moving:
            instructions += self._transfers.end(name, key)
        gone = self.hosts.leave(name)
        lost: list[Key] = []
        if gone is not None:
            for key in gone.keys:
                self._table.discard_copy(key, process.host)
            lost = [key for key in gone.keys if not self.objects[key].copies]
        if process.role == "worker":
            instructions += self._tell_clients(process.host)
        for key in moving:
            instructions += self._losses.left(name, key)
        if gone is not None:
            instructions += self._losses.lose(gone.hostname, lost)
            left = {"action": "remove-host", "host": gone.hostname, "lost": len(lost)}
            instructions.append(events.Log(left))
        return instructions

    def _begin_serving(self) -> list[Instruction]:
        """Let workers serve as soon as there is more than one host."""
        used = [h for h in self.hosts.hosts if self.hosts.on(h) != (SCHEDULER,)]
        if not self._lazily or len(used) < 2:
            return []
        silent = [
            name
            for name, process in self.hosts.processes.items()
            if process.role == "worker" and process.endpoint is None
        ]
        self.starting.update(silent)
        return [events.Send((name,), {"op": "daskref-serve"}) for name in silent]

    def _tell_clients(self, host: str) -> list[Instruction]:
        message = {
            "op": "daskref-hosts",
            "host": host,
            "endpoints": self.hosts.endpoints(host),
            "workers": bool(self.hosts.on(host, "worker")),
        }
        return [events.Send((client,), message) for client in self.hosts.clients()]

    @_handle.register
    def _on_reconciled(self, event: events.Reconciled) -> list[Instruction]:
        instructions: list[Instruction] = []
        for host in self.hosts.hosts:
            if host != self.home:
                known = [key[0] for key in self.hosts.keys(host)]
                message = {"op": "daskref-sweep", "known": known, "grace": event.grace}
                instructions.append(events.Send(self.hosts.on(host), message))
        failed = []
        for key, obj in self.objects.items():
            if obj.deletion == "failed":
                obj.deletion = "begun"
                failed.append(key)
            if obj.holders:
                obj.stray = False
                continue
            obj.refused = frozenset()
            if obj.lost is not None and obj.lost.since < self._table.now - FORGOTTEN:
                self._table.find(key)
            # It lives by a lease, if at all, where it was put.
            for host in list(obj.copies) if obj.stray else ():
                self._table.discard_copy(key, host)
            obj.stray = bool(obj.copies)
        if failed:
            instructions.append(events.Delete((), tuple(failed)))
        return instructions

    # Copies

    @_handle.register
    def _on_source_asked(self, event: events.SourceAsked) -> list[Instruction]:
        key = event.key
        host = self.hosts.host_of(event.process)
        if host is None:
            answer = {"status": "left"}
            return [events.Answer(event.process, key, answer, event.last)]
        obj = self._table.touch(key)
        if not obj.copies and obj.lost is None:
            if host == key[2] and not obj.holders:
                # It was deleted: its writer's host has just been looked at.
                self._transfers.answered(event)
                return self._losses.what_became(event)
            # Its writer's word is still under way, or it lives by a lease.
            self._table.add_copy(key, key[2])
        if event.last:
            return self._losses.what_became(event)
        avoid = self._transfers.avoided(event)
        instructions: list[Instruction] = []
        otherwise = "queued"
        if not self._table.is_served(key, avoid):
            instructions = self._losses.seek(key)
            if obj.sought is None and not self._will_be_served(obj):
                if obj.lost is not None:
                    self._transfers.answered(event)
                    return self._losses.what_became(event)
                otherwise = "none"
        return instructions + self._transfers.ask(event, avoid, otherwise)

    def _will_be_served(self, obj: StoredObject) -> bool:
        return any(
            p in self.starting for host in obj.copies for p in self.hosts.on(host)
        )

    @_handle.register
    def _on_patience_ended(self, event: events.PatienceEnded) -> list[Instruction]:
        return self._transfers.end_patience(event)

    @_handle.register
    def _on_fetched(self, event: events.Fetched) -> list[Instruction]:
        host = self.hosts.host_of(event.process)
        if host is None:
            return []
        if event.copied:
            self._table.find(event.key)
            self._table.add_copy(event.key, host)
        return self._transfers.end(event.process, event.key, event.copied)

    @_handle.register
    def _on_supplied(self, event: events.Supplied) -> list[Instruction]:
        is_released, instructions = self._losses.supply(event)
        return instructions + (self._delete([event.key]) if is_released else [])
