"""Objects that no host serves.

Dask computes results again; clients send again the objects that they hold. Readers of
any other object learn which host is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daskref.connectors.base import Key
from daskref.scheduler._events import (
    Answer,
    Instruction,
    Recompute,
    Send,
    SourceAsked,
    Supplied,
    Warn,
)
from daskref.scheduler._hosts import Hosts
from daskref.scheduler._table import Lost, Sought, Table

#: Seconds for a client to send an object, before another one is asked.
SUPPLY = 300.0


@dataclass(eq=False, repr=False)
class Losses:
    """Objects that no host serves, and the clients and tasks that can restore them."""

    _table: Table
    _hosts: Hosts

    def lose(self, hostname: str, keys: list[Key]) -> list[Instruction]:
        """Restore objects whose last copy is gone with its host."""
        again: dict[Any, None] = {}
        instructions: list[Instruction] = []
        for key in keys:
            if not self._table.touch(key).holders:
                continue
            reason = (
                f"{key[0]} of {key[1]:,} B was on host {hostname}, which is gone, and "
                "no client holds it any more"
            )
            is_result, tasks = self._computable(key)
            again.update(dict.fromkeys(tasks))
            self._table.lose(key, Lost(reason, is_result, self._table.now))
            if not is_result:
                instructions += self.seek(key)
        if again:
            instructions.append(Recompute(tuple(again)))
        if keys:
            text = (
                f"Host {hostname} is gone, and with it the only copies of {len(keys)} "
                "objects: results are computed again, clients send again what they hold"
            )
            instructions.append(Warn(text))
        return instructions

    def what_became(self, event: SourceAsked) -> list[Instruction]:
        """Tell a reader that gives up why; let Dask compute a lost result again."""
        instructions: list[Instruction] = []
        key = event.key
        obj = self._table.touch(key)
        lost = obj.lost
        if lost is None:
            hosts = [host[:8] for host in obj.copies or [key[2]]]
            reason = (
                f"{key[0]} of {key[1]:,} B is on host {', '.join(hosts)}, which does "
                "not give it, and no client holds it any more"
            )
            is_result, tasks = self._computable(key)
            lost = Lost(reason, is_result, self._table.now)
            if is_result:
                self._table.lose(key, lost)
            if tasks:
                instructions.append(Recompute(tuple(tasks)))
        found = {"reason": lost.reason, "recomputed": lost.recomputed}
        answer = {"status": "lost", **found}
        return [*instructions, Answer(event.process, key, answer, event.last)]

    def _computable(self, key: Key) -> tuple[bool, list[Any]]:
        """Tell whether an object is a result to compute again, and of which tasks."""
        holders = self._table.touch(key).holders
        found = [holder for holder, computable in holders.items() if computable]
        # A result with a "lost" holder only is computed again already.
        return bool(found), [each.name for each in found if each.kind == "result"]

    def seek(self, key: Key) -> list[Instruction]:
        """Ask a client to send an object that no host serves.

        A client that was asked and may still send the object is recorded as ``sought``.
        """
        obj = self._table.touch(key)
        if obj.sought is not None:
            if self._table.now < obj.sought.since + SUPPLY:
                return []
            obj.refused |= {obj.sought.client}
            obj.sought = None
        holding = [str(each.name) for each in obj.holders if each.kind == "client"]
        beside = [p for host in obj.copies for p in self._hosts.on(host, "client")]
        for client in holding + beside:
            if client in obj.refused or self._hosts.host_of(client) is None:
                continue
            obj.sought = Sought(client, self._table.now, bool(obj.holders))
            return [Send((client,), {"op": "daskref-wanted", "object": key})]
        return []

    def seek_all(self) -> list[Instruction]:
        """Ask clients for all objects that no host serves, now that a host serves.

        A client that could not send an object may have had no host to send it to.
        """
        objects = self._table.objects
        unserved = [
            key
            for key, obj in objects.items()
            if obj.lost or (obj.copies and not self._table.is_served(key))
        ]
        for key in unserved:
            objects[key].refused = frozenset()
        return [each for key in unserved for each in self.seek(key)]

    def supply(self, event: Supplied) -> tuple[bool, list[Instruction]]:
        """Record where a client has sent an object, or that it could not.

        Returns whether the object that was sent has no holder any more, and
        instructions.
        """
        key = event.key
        obj = self._table.touch(key)
        sought = obj.sought
        if sought is not None and sought.client != event.client:
            sought = None  # another one was asked instead, by now
        if sought is not None:
            obj.sought = None
        if event.host is not None:
            self._table.find(key)
            self._table.add_copy(key, event.host)
            return sought is not None and sought.held and not obj.holders, []
        if sought is None:
            return False, []
        obj.refused |= {event.client}
        return False, self.seek(key)

    def left(self, process: str, key: Key) -> list[Instruction]:
        """Ask other clients for the objects of a client that has left."""
        obj = self._table.touch(key)
        if obj.sought is None or obj.sought.client != process:
            return []
        obj.sought = None
        return self.seek(key)
