"""The arithmetic of the budget, for any machine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from daskref.connectors.machine import SHARE, least, memory
from daskref.connectors.shm import _room as module
from daskref.connectors.shm._room import Budget, Reserve

#: The largest that a file in ``/proc`` or ``/sys`` says: no limit, in version 1.
MOST = 2**63 - 1
sizes = st.integers(0, MOST)
puts = st.integers(1, MOST)
fractions = st.floats(0, 1)
several = settings(max_examples=200, deadline=None)
files = settings(max_examples=25, deadline=None)


@dataclass(frozen=True)
class Group:
    """A control group; ``None`` for no limit."""

    most: int | None
    high: int | None
    used: int
    droppable: int

    def limits(self, version: int) -> list[int]:
        found = [self.most, self.high if version == 2 else None]
        return [limit for limit in found if limit is not None]


@dataclass(frozen=True)
class Machine:
    """Memory, and the groups on the way to this process, the root's first."""

    kib: int
    available_kib: int
    version: int
    groups: tuple[Group, ...]

    @property
    def limits(self) -> list[int]:
        found = [each for group in self.groups for each in group.limits(self.version)]
        return [self.kib * 1024, *found]

    def write(self, root: Path) -> None:
        names = [f"g{depth}" for depth in range(1, len(self.groups))]
        path = "/" + "/".join(names)
        folder = root / "sys/fs/cgroup"
        line = f"0::{path}"
        most, used, droppable = "memory.max", "memory.current", "inactive_file"
        if self.version == 1:
            folder /= "memory"
            line = f"7:cpu:/elsewhere\n3:memory:{path}"
            most, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
            droppable = "total_inactive_file"
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(line)
        (root / "proc/meminfo").write_text(
            f"MemTotal: {self.kib} kB\nMemAvailable: {self.available_kib} kB\n"
        )
        for name, group in zip(["", *names], self.groups, strict=True):
            folder /= name
            folder.mkdir(parents=True, exist_ok=True)
            none = "max" if self.version == 2 else MOST
            found = group.most is not None
            (folder / most).write_text(f"{group.most if found else none}\n")
            (folder / used).write_text(f"{group.used}\n")
            (folder / "memory.stat").write_text(f"{droppable} {group.droppable}\n")
            if self.version == 2 and name:  # the root of all has none
                found = group.high is not None
                (folder / "memory.high").write_text(f"{group.high if found else none}")

    def memory(self) -> tuple[int, int]:
        with tempfile.TemporaryDirectory() as directory:
            self.write(Path(directory))
            return memory(directory)


limits = st.none() | sizes
groups = st.builds(Group, limits, limits, sizes, sizes)
machines = st.builds(
    Machine,
    st.integers(1, 2**53 - 1),
    st.integers(0, 2**53 - 1),
    st.sampled_from([1, 2]),
    # the first one is the root, which has no `memory.high`
    st.tuples(st.builds(Group, limits, st.none(), sizes, sizes))
    | st.tuples(st.builds(Group, limits, st.none(), sizes, sizes), groups)
    | st.tuples(st.builds(Group, limits, st.none(), sizes, sizes), groups, groups),
)


@files
@given(machines)
def test_memory_is_the_least_limit(machine: Machine) -> None:
    total, left = machine.memory()
    assert total == min(machine.limits)
    assert 0 <= left <= total


@files
@given(machines, groups, sizes)
def test_more_limits_and_use_are_never_more_memory(
    machine: Machine, further: Group, more: int
) -> None:
    total, left = machine.memory()
    inner = replace(machine, groups=(*machine.groups, further)).memory()
    assert inner[0] <= total
    assert inner[1] <= left
    used = [replace(g, used=min(MOST, g.used + more)) for g in machine.groups]
    assert replace(machine, groups=tuple(used)).memory()[1] <= left
    looser = [
        replace(g, most=None if g.most is None else min(MOST, g.most + more))
        for g in machine.groups
    ]
    wider = replace(machine, groups=tuple(looser)).memory()
    assert wider[0] >= total
    assert wider[1] >= left


@dataclass(frozen=True)
class Room:
    """A file system, what the session has in it, and the memory."""

    limit: int | float
    total: int
    free: int
    used: int
    memory: int

    def _budget(self, function: Any) -> int:
        with (
            mock.patch.object(module, "memory", return_value=(self.memory, 2**80)),
            mock.patch.object(module, "_space", return_value=(self.total, self.free)),
            # of the directory, and of the pool in it
            mock.patch.object(module, "_count", side_effect=[self.used, 0]),
        ):
            return int(function(Budget("/dev/shm/session", self.limit)))

    def share(self, part: int | float = 1.0) -> int:
        return self._budget(lambda budget: budget.share(part))

    def lacking(self, nbytes: int) -> int:
        return self._budget(lambda budget: budget.lacking(nbytes))


def _room(limit: int | float, memory: int, taken: list[int]) -> Room:
    used, taken_by_others, total = sorted(taken)
    return Room(limit, total, total - taken_by_others, used, memory)


rooms = st.builds(
    _room, fractions | sizes, sizes, st.lists(sizes, min_size=3, max_size=3)
)


@several
@given(rooms, fractions | sizes)
def test_the_budget_is_above_no_limit(room: Room, part: int | float) -> None:
    whole = room.share()
    assert 0 <= whole <= room.total
    if isinstance(room.limit, float):
        assert whole <= room.memory * SHARE
    else:
        assert whole == min(room.limit, room.total)
    assert 0 <= room.share(part) <= whole


@several
@given(rooms, sizes, st.floats(0, 1))
def test_the_budget_grows_with_each_limit(
    room: Room, more: int, fraction: float
) -> None:
    whole = room.share()
    assert replace(room, total=min(MOST, room.total + more)).share() >= whole
    assert replace(room, memory=min(MOST, room.memory + more)).share() >= whole
    if isinstance(room.limit, float):
        larger = max(room.limit, fraction)
    else:
        larger = min(MOST, room.limit + more)
    assert replace(room, limit=larger).share() >= whole


@several
@given(rooms, sizes, sizes)
def test_what_lacks_makes_room_when_it_is_freed(
    room: Room, nbytes: int, more: int
) -> None:
    lacking = room.lacking(nbytes)
    assert lacking >= 0
    if not lacking:
        assert nbytes <= room.free
        assert room.used + nbytes <= room.share()
    assert room.lacking(nbytes + more) >= lacking
    fuller = replace(
        room,
        used=min(room.total, room.used + more),
        free=max(0, room.free - more),
    )
    assert fuller.lacking(nbytes) >= lacking
    if lacking <= room.used:
        freed = replace(room, used=room.used - lacking, free=room.free + lacking)
        assert freed.lacking(nbytes) == 0


@several
@given(sizes, fractions, st.lists(st.tuples(puts, st.booleans()), max_size=8))
def test_no_puts_take_the_reserve(
    total: int, part: float, asked: list[tuple[int, bool]]
) -> None:
    left = int(part * total)
    now = 100.0
    with (
        mock.patch.object(module, "memory", side_effect=lambda: (total, left)),
        mock.patch.object(module, "time", SimpleNamespace(monotonic=lambda: now)),
    ):
        reserve = Reserve()
        for nbytes, later in asked:
            lacking = reserve.lacking(nbytes)
            if lacking:
                assert left - nbytes + lacking == least(total)
            else:
                left -= nbytes
                assert left >= least(total)
            now += later
