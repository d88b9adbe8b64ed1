"""The budget minds the machine, and the pool is given back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from daskref.connectors import SharedMemoryConnector
from daskref.connectors.machine import is_low, least, memory
from daskref.connectors.shm import _room
from daskref.connectors.shm._room import Budget, Reserve
from tests.support.common import wait_until

MIB = 2**20
GIB = 2**30


def tree(root: Path, files: dict[str, object]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return str(root)


MACHINE = {
    "proc/meminfo": f"MemTotal: {16 * 2**20} kB\nMemAvailable: {9 * 2**20} kB",
}


def test_the_machine_alone(tmp_path: Path) -> None:
    assert memory(tree(tmp_path, MACHINE)) == (16 * GIB, 9 * GIB)


def test_the_least_of_nested_groups(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    files = MACHINE | {
        "proc/self/cgroup": "0::/pod/job",
        f"{base}/pod/memory.max": 4 * GIB,
        f"{base}/pod/memory.current": 3 * GIB,
        f"{base}/pod/memory.stat": f"anon 1\ninactive_file {2 * GIB}",
        f"{base}/pod/job/memory.max": "max",
        f"{base}/pod/job/memory.current": GIB,
    }
    assert memory(tree(tmp_path, files)) == (4 * GIB, 3 * GIB)


def test_what_a_group_should_not_exceed(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    files = MACHINE | {
        "proc/self/cgroup": "0::/job",
        f"{base}/job/memory.max": "max",
        f"{base}/job/memory.high": 3 * GIB,
        f"{base}/job/memory.current": 2 * GIB,
    }
    assert memory(tree(tmp_path, files)) == (3 * GIB, GIB)


def test_a_container_that_sees_its_hosts_path(tmp_path: Path) -> None:
    files = MACHINE | {
        "proc/self/cgroup": "0::/kubepods/pod1",
        "sys/fs/cgroup/memory.max": 2 * GIB,
        "sys/fs/cgroup/memory.current": 2 * GIB,
    }
    assert memory(tree(tmp_path, files)) == (2 * GIB, 0)
    assert is_low(*memory(str(tmp_path)))


def test_version_1(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory"
    files = MACHINE | {
        "proc/self/cgroup": "5:cpu:/a\n4:memory,hugetlb:/a",
        f"{base}/memory.limit_in_bytes": 2**63 - 4096,  # none
        f"{base}/memory.usage_in_bytes": 12 * GIB,
        f"{base}/a/memory.limit_in_bytes": 8 * GIB,
        f"{base}/a/memory.usage_in_bytes": 5 * GIB,
        f"{base}/a/memory.stat": f"total_inactive_file {GIB}",
    }
    assert memory(tree(tmp_path, files)) == (8 * GIB, 4 * GIB)
    assert not is_low(*memory(str(tmp_path)))


def test_a_fraction_is_of_half_the_memory_and_bytes_are_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskref.connectors.shm._room.memory", lambda: (1000, 500))
    (tmp_path / "object").write_bytes(bytes(300))
    budget = Budget(str(tmp_path), 0.8)
    assert budget.share(1.0) == 400
    assert budget.share(0.25) == 100  # the pool's
    assert budget.lacking(101) == 1
    assert Budget(str(tmp_path), 800).lacking(101) == 0


def pooled(shm: SharedMemoryConnector) -> int:
    return shm.space().pool


def test_idle_pages_are_given_back(tmp_path: Path) -> None:
    with SharedMemoryConnector(recycle_idle=0.1) as shm:
        for _ in range(2):  # the thread goes to sleep, and wakes
            shm.evict(shm.put(np.ones(2**20, "u1")))
            assert pooled(shm) >= 2**20
            wait_until(lambda: not pooled(shm), "the pool to be given back")


def test_pages_are_given_back_when_memory_is_low(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = SimpleNamespace(nbytes=1000)
    monkeypatch.setattr(
        "daskref.connectors.files.recycling.memory", lambda: (1000, left.nbytes)
    )
    with SharedMemoryConnector(recycle_idle=3600) as shm:
        shm.evict(shm.put(np.ones(2**20, "u1")))
        assert pooled(shm)
        left.nbytes = 50
        wait_until(lambda: not pooled(shm), "the pool to be given back")


class Memory:
    """Of a machine that has 1000 MiB, as daskref sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 1000 * MIB
        self.least = least(self.left)
        self.looks = 0
        self.now = 0.0
        monkeypatch.setattr("daskref.connectors.shm._room.memory", self._look)
        monkeypatch.setattr(
            "daskref.connectors.shm._room.time",
            SimpleNamespace(monotonic=lambda: self.now),
        )

    def _look(self) -> tuple[int, int]:
        self.looks += 1
        return 1000 * MIB, self.left


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


def test_memory_is_looked_at_only_once_in_a_while(machine: Memory) -> None:
    reserve = Reserve()
    for _ in range(100):
        assert not reserve.lacking(4 * MIB)
    assert machine.looks == 1
    machine.now += 1
    machine.left = 800 * MIB
    assert not reserve.lacking(MIB)
    assert machine.looks == 2
    machine.now += 1
    assert not reserve.lacking(MIB // 2)  # so little is not worth it
    assert machine.looks == 2
    assert not reserve.lacking(MIB)
    assert machine.looks == 3


def test_a_machine_that_is_full_is_looked_at_each_time(machine: Memory) -> None:
    reserve = Reserve()
    machine.left = machine.least + 3 * MIB
    assert reserve.lacking(4 * MIB) == MIB
    machine.left = machine.least + 4 * MIB
    assert not reserve.lacking(4 * MIB)


def test_what_would_leave_too_little_memory_goes_to_disk(machine: Memory) -> None:
    data = np.ones(4 * MIB, "u1")
    with SharedMemoryConnector(recycle_idle=3600) as shm:
        recycled, kept = shm.put(data), shm.put(data)
        assert shm.space().disk == 0
        shm.evict(recycled)
        machine.left, machine.now = machine.least - 50 * MIB, 1.0
        shm.put(data)  # into pages that exist
        assert shm.space().disk == 0
        on_disk = shm.put(data)
        assert shm.space().disk >= data.nbytes
        assert bytes(shm.get(on_disk)) == bytes(shm.get(kept)) == bytes(data)
        machine.left = machine.least + 100 * MIB
        before = shm.space()
        shm.put(data)
        assert shm.space().disk == before.disk
        assert shm.space().memory > before.memory


def test_the_pool_goes_before_objects_go_to_disk(
    machine: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SharedMemoryConnector(recycle_idle=3600) as shm:
        trim = shm.tiers.pool.trim

        def trimmed(nbytes: int) -> int:
            gained = trim(nbytes)
            machine.left += gained
            return gained

        monkeypatch.setattr(shm.tiers.pool, "trim", trimmed)
        shm.evict(shm.put(np.ones(2 * MIB, "u1")))
        assert pooled(shm)
        machine.left, machine.now = machine.least + 6 * MIB, 1.0
        shm.put(np.ones(8 * MIB, "u1"))
        assert not pooled(shm)
        assert shm.space().disk == 0


def test_many_files_are_counted_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each put, which would take longer with each file that there is."""
    now, counts = 0.0, 0

    def count(path: str) -> int:
        nonlocal now, counts
        now += 0.1
        counts += 1
        return 0

    monkeypatch.setattr(_room, "_count", count)
    monkeypatch.setattr(_room, "_space", lambda path: (100 * GIB, 50 * GIB))
    monkeypatch.setattr(_room, "time", SimpleNamespace(monotonic=lambda: now))
    budget = Budget(str(tmp_path), GIB)
    for _ in range(100):
        now += 0.001
        assert not budget.lacking(MIB)
    assert counts == 2  # the objects, and the pool
    now += 2.0
    assert not budget.lacking(MIB)
    assert counts == 4
    for _ in range(100):
        now += 0.001
        assert budget.lacking(GIB)
    assert counts == 4  # near the limit, too
    now += 0.2
    assert not budget.lacking(GIB)  # but not for long: something was deleted
    assert counts == 6


def test_room_that_was_gained_counts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_room, "_count", lambda path: 0)
    monkeypatch.setattr(_room, "_space", lambda path: (100 * GIB, 50 * GIB))
    budget = Budget(str(tmp_path), 10 * MIB)
    assert not budget.lacking(6 * MIB)
    budget._took = 1e9
    assert budget.lacking(6 * MIB) == 2 * MIB
    budget.gain(2 * MIB)
    assert not budget.lacking(6 * MIB)
