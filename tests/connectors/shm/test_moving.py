"""Objects that go from memory to disk: found at all times, and gone once deleted."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskref.connectors import SharedMemoryConnector
from daskref.connectors.files import writing
from daskref.connectors.files.locks import exclusively
from daskref.connectors.shm import _moving as module
from daskref.exceptions import ConnectorUnavailableError
from tests.support.child_processes import Child
from tests.support.common import wait_until
from tests.support.shm_files import files, fill, pooled

MIB = 2**20
SIZE = MIB + 1000


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the directory for temporary files for a disk, as it is on most machines."""
    monkeypatch.setattr("daskref.connectors.shm._spill.is_memory", lambda path: False)


@pytest.fixture
def other(shm: SharedMemoryConnector) -> Iterator[SharedMemoryConnector]:
    """What another process would have."""
    with SharedMemoryConnector(**shm.config()) as connector:
        yield connector


def move(shm: SharedMemoryConnector, *keys: Any) -> int:
    with shm.tiers.mover.turn() as ours:
        assert ours
        return shm.tiers.mover.move(*(key.name for key in keys))


def on_disk(shm: SharedMemoryConnector) -> list[str]:
    """Names of what there is on disk, unfinished and leases as well."""
    found = shm.tiers.spill.find()
    if found is None:
        return []
    return sorted(set(os.listdir(found.path)) - {"identity"})


def in_memory(shm: SharedMemoryConnector) -> list[Path]:
    return files(shm, "????????-*")


def marks(shm: SharedMemoryConnector) -> list[Path]:
    return files(shm, ".m-*")


def at(monkeypatch: pytest.MonkeyPatch, name: str, do: Callable[[], object]) -> None:
    """Do something once, before a function of the module is called."""
    real = getattr(module, name)
    pending = [do]

    def called(*args: Any, **kwargs: Any) -> Any:
        if pending:
            pending.pop()()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, called)


class TestMove:
    def test_an_object_keeps_its_key(
        self, shm: SharedMemoryConnector, other: SharedMemoryConnector
    ) -> None:
        key = shm.put(fill(SIZE))
        assert other.get(key) == fill(SIZE)
        before = shm.usage()
        assert move(shm, key) == SIZE
        assert not in_memory(shm)
        assert on_disk(shm) == [key.name]
        for connector in (shm, other):
            assert connector.exists(key)
            assert connector.get(key) == fill(SIZE)
            assert connector.usage() == before
            assert connector.names() == [key.name]
            space = connector.space()
            assert (space.memory, space.pool, space.pinned) == (0, 0, 0)
            assert space.disk >= SIZE
        assert move(shm, key) == 0
        other.evict(key)
        assert not shm.exists(key)
        assert on_disk(shm) == []

    @pytest.mark.parametrize("direct", ["not at all", "not for writing", "yes"])
    @pytest.mark.parametrize("nbytes", [2**16, 4 * MIB, 9 * MIB + 1])
    def test_file_systems_that_write_past_the_cache_and_others(
        self,
        shm: SharedMemoryConnector,
        monkeypatch: pytest.MonkeyPatch,
        direct: str,
        nbytes: int,
    ) -> None:
        if direct == "not at all":
            monkeypatch.setattr(writing, "_set_direct", lambda fd, direct: False)
        if direct == "not for writing":
            real = writing.write_file
            refused = [errno.EINVAL]

            def write_file(*args: Any) -> None:
                if refused:
                    raise OSError(refused.pop(), "not so")
                real(*args)

            monkeypatch.setattr(writing, "write_file", write_file)
        value = os.urandom(nbytes)
        key = shm.put(value)
        assert move(shm, key) == nbytes
        assert not in_memory(shm)
        assert shm.get(key) == value

    def test_what_somebody_reads_stays(self, shm: SharedMemoryConnector) -> None:
        key = shm.put(fill(SIZE))
        view = shm.get(key)
        assert move(shm, key) == 0
        assert on_disk(shm) == []
        assert view is not None
        del view
        assert move(shm, key) == SIZE

    def test_what_somebody_begins_to_read_meanwhile_stays(
        self, shm: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = shm.put(fill(SIZE))
        views: list[Any] = []
        at(monkeypatch, "copy_past_cache", lambda: views.append(shm.get(key)))
        assert move(shm, key) == 0
        assert [path.name for path in in_memory(shm)] == [key.name]
        assert on_disk(shm) == []
        assert views == [fill(SIZE)]

    def test_all_names_move_together(
        self, shm: SharedMemoryConnector, other: SharedMemoryConnector
    ) -> None:
        key = shm.put(fill(SIZE))
        second = shm.link(key)
        assert second is not None
        assert move(shm, key) == 0  # it would gain nothing
        assert on_disk(shm) == []
        assert move(shm, key, second) == SIZE
        assert not in_memory(shm)
        assert not marks(shm)
        assert other.usage() == (1, SIZE)
        other.evict(key)
        assert other.get(key) is None
        assert other.get(second) == fill(SIZE)
        other.evict(second)
        assert on_disk(shm) == []

    def test_a_name_that_it_gets_meanwhile_is_not_lost(
        self, shm: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = shm.put(fill(SIZE))
        new: list[Any] = []
        at(monkeypatch, "copy_past_cache", lambda: new.append(shm.link(key)))
        assert move(shm, key) == 0
        assert on_disk(shm) == []
        assert shm.get(key) == shm.get(new[0]) == fill(SIZE)

    def test_the_lease_moves_too(
        self,
        shm: SharedMemoryConnector,
        other: SharedMemoryConnector,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        key = shm.put(fill(SIZE))
        assert shm.renew(key, -5.0)
        # The holder renews it at the last moment.
        at(monkeypatch, "unlink", lambda: other.renew(key, 60.0))
        assert move(shm, key) == SIZE
        assert not files(shm, "l-*")
        assert on_disk(shm) == sorted([key.name, f"l-{key.name}"])
        assert shm.sweep() == []
        assert shm.renew(key, -1.0)
        assert shm.sweep() == [key]
        assert on_disk(shm) == []

    def test_the_writer_keeps_no_pages(self, shm: SharedMemoryConnector) -> None:
        for _ in range(2):
            shm.evict(shm.put(fill(4 * MIB)))
        key = shm.put(fill(4 * MIB, 2))
        assert shm.tiers.memory.kept is not None
        assert shm.tiers.memory.kept.inodes()
        assert move(shm, key) == 4 * MIB
        assert shm.space().memory == shm.space().pinned == 0
        again = [shm.put(fill(4 * MIB, i)) for i in range(3)]
        assert shm.get(key) == fill(4 * MIB, 2)
        assert [shm.get(each) for each in again] == [fill(4 * MIB, i) for i in range(3)]

    def test_what_is_parked_is_not_read_again(self, shm: SharedMemoryConnector) -> None:
        key = shm.put(fill(4 * MIB))
        assert shm.get(key) == fill(4 * MIB)  # parked from here on
        assert move(shm, key) == 4 * MIB
        assert shm.get(key) == fill(4 * MIB)

    def test_an_object_that_is_put_again_is_deleted_everywhere(
        self, shm: SharedMemoryConnector
    ) -> None:
        key = shm.new_key()
        shm.set(key, fill(SIZE))
        assert move(shm, key) == SIZE
        shm.set(key, fill(SIZE, 2))
        assert shm.get(key) == fill(SIZE, 2)
        assert move(shm, key) == SIZE
        assert shm.get(key) == fill(SIZE, 2)
        shm.set(key, fill(SIZE, 3))
        shm.evict(key)
        assert not shm.exists(key)

    def test_a_full_disk_leaves_it_in_memory(
        self, shm: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        key = shm.put(fill(SIZE))
        with monkeypatch.context() as patch:
            patch.setattr(writing, "write_file", full)
            with pytest.raises(OSError, match="space"):
                move(shm, key)
        assert on_disk(shm) == []
        assert shm.get(key) == fill(SIZE)
        assert move(shm, key) == SIZE

    def test_a_store_that_is_closed_stops_it(
        self, shm: SharedMemoryConnector, other: SharedMemoryConnector
    ) -> None:
        key = shm.put(fill(SIZE))
        other.tiers.mover.close()
        assert move(other, key) == 0
        assert on_disk(shm) == []
        assert shm.get(key) == fill(SIZE)

    def test_a_copy_that_cannot_get_its_name_goes(
        self, shm: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full() -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        key = shm.put(fill(SIZE))
        at(monkeypatch, "hand_over", full)
        with pytest.raises(OSError, match="space"):
            move(shm, key)
        assert on_disk(shm) == []
        assert not marks(shm)
        assert [path.name for path in in_memory(shm)] == [key.name]

    def test_a_file_system_without_links(
        self, shm: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.link

        def link(path: str, new: str, **kwargs: Any) -> None:
            if not new.startswith(shm.directory):
                raise OSError(errno.EPERM, "no links here")
            real(path, new, **kwargs)

        key = shm.put(fill(SIZE))
        monkeypatch.setattr(os, "link", link)
        assert move(shm, key) == SIZE
        assert shm.get(key) == fill(SIZE)


class TestDeletion:
    """By another process, while an object is moved."""

    def test_while_it_is_copied(
        self,
        shm: SharedMemoryConnector,
        other: SharedMemoryConnector,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        key = shm.put(fill(SIZE))
        put: list[Any] = []

        def delete() -> None:
            other.evict(key)
            put.append(other.put(fill(SIZE, 2)))  # not into the pages being copied

        at(monkeypatch, "copy_past_cache", delete)
        assert move(shm, key) == 0
        assert not other.exists(key)
        assert on_disk(shm) == []
        assert other.get(put[0]) == fill(SIZE, 2)
        assert len(pooled(shm)) == 1

    @pytest.mark.parametrize("step", ["_link", "hand_over", "unlink"])
    @pytest.mark.parametrize("way", ["evict", "sweep"])
    def test_while_it_gets_its_name(
        self,
        shm: SharedMemoryConnector,
        other: SharedMemoryConnector,
        monkeypatch: pytest.MonkeyPatch,
        step: str,
        way: str,
    ) -> None:
        key = shm.put(fill(SIZE))
        if way == "sweep":
            shm.renew(key, -1.0)
        ended: list[bool] = []

        def delete() -> None:
            other.evict(key) if way == "evict" else other.sweep()
            ended.append(other.exists(key))

        thread = threading.Thread(target=delete)

        def begin() -> None:
            thread.start()
            wait_until(lambda: not other.tiers.memory.exists(key.name))
            assert not ended  # it waits for the copy to go

        at(monkeypatch, step, begin)
        move(shm, key)
        thread.join()
        assert ended == [False]
        assert not shm.exists(key)
        assert on_disk(shm) == []
        assert not files(shm, "*" + key.name)

    @pytest.mark.parametrize("step", ["_link", "hand_over", "unlink"])
    def test_a_reader_at_the_same_time_finds_it(
        self,
        shm: SharedMemoryConnector,
        other: SharedMemoryConnector,
        monkeypatch: pytest.MonkeyPatch,
        step: str,
    ) -> None:
        key = shm.put(fill(SIZE))
        read: list[Any] = []
        thread = threading.Thread(target=lambda: read.append(other.take(key)))

        def begin() -> None:
            assert other.exists(key)
            thread.start()

        at(monkeypatch, step, begin)
        assert move(shm, key) == SIZE
        thread.join()
        assert read == [fill(SIZE)]
        assert not shm.exists(key)
        assert on_disk(shm) == []


MOVER = """
from daskref.connectors.shm import _moving as moving
from daskref.connectors.shm import *
def die(*args, **kwargs):
    say("dies")
    sys.stdin.read()
setattr(moving, step, die)
connector = SharedMemoryConnector(**config)
with connector.tiers.mover.turn():
    connector.tiers.mover.move(name)
"""


class TestDeath:
    """Of a process that moves an object."""

    @pytest.fixture(params=["_link", "hand_over", "unlink"])
    def key(
        self,
        shm: SharedMemoryConnector,
        child: Callable[..., Child],
        request: pytest.FixtureRequest,
    ) -> Any:
        key = shm.put(fill(SIZE))
        mover = child(MOVER, config=shm.config(), step=request.param, name=key.name)
        assert mover.line() == "'dies'"
        mover.kill()
        assert len(marks(shm)) == 1
        assert shm.get(key) == fill(SIZE)
        return key

    def test_who_deletes_it_leaves_nothing(
        self, shm: SharedMemoryConnector, key: Any
    ) -> None:
        shm.evict(key)
        assert not shm.exists(key)
        assert not marks(shm)
        shm.sweep()
        assert on_disk(shm) == []

    def test_the_next_one_moves_it(self, shm: SharedMemoryConnector, key: Any) -> None:
        assert shm.tiers.mover.make_room(SIZE) == SIZE
        assert shm.get(key) == fill(SIZE)
        assert shm.space().memory == 0
        shm.sweep()
        assert on_disk(shm) == [key.name]


class TestMakeRoom:
    def test_recycled_files_go_first_then_the_oldest(
        self, shm: SharedMemoryConnector
    ) -> None:
        keys = [shm.put(fill(SIZE, i)) for i in range(3)]
        for age, key in enumerate(keys):
            os.utime(Path(shm.directory, key.name), (100 - age, 100 - age))
        small = shm.put(fill(1000))
        shm.evict(shm.put(fill(SIZE)))
        assert len(pooled(shm)) == 1
        assert shm.tiers.mover.make_room(SIZE) == SIZE
        assert not pooled(shm)
        assert on_disk(shm) == []
        assert shm.tiers.mover.make_room(SIZE) == SIZE
        assert on_disk(shm) == [keys[2].name]
        assert shm.tiers.mover.make_room(10 * SIZE) == 2 * SIZE
        assert [path.name for path in in_memory(shm)] == [small.name]

    def test_one_process_at_a_time(self, shm: SharedMemoryConnector) -> None:
        shm.put(fill(SIZE))
        with shm.tiers.mover.turn() as first:
            assert first
            with shm.tiers.mover.turn() as second:
                assert not second
            assert shm.tiers.mover.make_room(SIZE) == 0
        assert shm.tiers.mover.make_room(SIZE) == SIZE

    def test_a_disk_that_is_memory_gains_nothing(
        self, shm: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "daskref.connectors.shm._spill.is_memory", lambda path: True
        )
        shm.put(fill(SIZE))
        assert shm.tiers.mover.make_room(SIZE) == 0

    def test_without_a_disk_objects_stay(self, tmp_path: Path) -> None:
        with SharedMemoryConnector(spill_directory=tmp_path / "missing") as shm:
            key = shm.put(fill(SIZE))
            with pytest.raises((OSError, ConnectorUnavailableError)):
                shm.tiers.mover.make_room(SIZE)
            assert shm.get(key) == fill(SIZE)


class TestLook:
    @pytest.fixture
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """One with 1000 MiB, as the mover sees it."""
        machine = SimpleNamespace(left=900 * MIB, looks=0)

        def memory() -> tuple[int, int]:
            machine.looks += 1
            return 1000 * MIB, machine.left

        monkeypatch.setattr(module, "memory", memory)
        return machine

    def test_objects_move_when_memory_runs_low(
        self, shm: SharedMemoryConnector, machine: SimpleNamespace
    ) -> None:
        keys = [shm.put(fill(SIZE, i)) for i in range(3)]
        wait_until(lambda: machine.looks, "a look")
        assert len(in_memory(shm)) == 3
        machine.left = 50 * MIB
        wait_until(lambda: not in_memory(shm), "the objects to be moved")
        assert [shm.get(key) for key in keys] == [fill(SIZE, i) for i in range(3)]
        machine.left = 900 * MIB
        shm.put(fill(SIZE))
        assert shm.tiers.mover._background.running

    def test_an_object_of_another_host_is_looked_at_once_it_is_published(
        self, shm: SharedMemoryConnector, machine: SimpleNamespace
    ) -> None:
        machine.left = 50 * MIB
        name, value = "0" * 8 + "-" + "a" * 24, fill(SIZE)
        arriving = shm.tiers.start(name, SIZE, ".f-")
        arriving.write(0, memoryview(value))
        assert machine.looks == 0  # nobody looks for what is not whole
        arriving.publish()
        wait_until(lambda: not in_memory(shm), "the object to be moved")
        assert shm.get((name, SIZE)) == value

    def test_looks_are_more_frequent_when_there_is_less(
        self, shm: SharedMemoryConnector, machine: SimpleNamespace
    ) -> None:
        shm.tiers.mover.close()
        assert shm.tiers.mover.look() == float("inf")  # nothing to be moved
        shm.put(fill(1000))
        assert shm.tiers.mover.look() == float("inf")
        key = shm.put(fill(SIZE))
        machine.left = 10_000 * MIB
        assert shm.tiers.mover.look() == 1.0
        machine.left = 450 * MIB
        assert 0.02 <= shm.tiers.mover.look() < 0.05
        shm.evict(key)
        assert shm.tiers.mover.look() == float("inf")

    def test_what_cannot_be_done_is_not_tried_all_the_time(
        self, tmp_path: Path, machine: SimpleNamespace
    ) -> None:
        with SharedMemoryConnector(spill_directory=tmp_path / "missing") as shm:
            machine.left = 50 * MIB
            view = shm.get(shm.put(fill(SIZE)))
            assert shm.tiers.mover.look() >= 0.2  # it is read
            assert view is not None
            del view
            assert shm.tiers.mover.look() >= 10.0  # there is no disk

    def test_a_session_that_is_gone_is_not_looked_at(
        self, machine: SimpleNamespace, tmp_path: Path
    ) -> None:
        shm = SharedMemoryConnector(spill_directory=tmp_path)
        mover = shm.tiers.mover
        shm.put(fill(SIZE))
        shm.close()
        machine.left = 50 * MIB
        assert mover.look() > 0
        assert list(tmp_path.iterdir()) == []


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "link", "move", "evict", "hold", "release", "sweep"]),
        st.integers(0, 5),
    ),
    max_size=25,
)


@settings(max_examples=30, deadline=None)
@given(steps)
def test_any_order_of_events(steps: list[tuple[str, int]]) -> None:
    """What was not deleted has its bytes; what was is nowhere."""
    with (
        pytest.MonkeyPatch.context() as patch,
        SharedMemoryConnector(recycle="1 MiB") as shm,
        SharedMemoryConnector(**shm.config()) as other,
    ):
        patch.setattr("daskref.connectors.shm._spill.is_memory", lambda path: False)
        values: dict[Any, bytes] = {}
        deleted: list[Any] = []
        held: list[Any] = []
        for number, (step, which) in enumerate(steps):
            keys = list(values)
            key = keys[which % len(keys)] if keys else None
            if step == "put":
                value = fill(2**16 + 1000 * which, number)
                values[shm.put(value)] = value
            elif step == "move":
                shm.tiers.mover.make_room(2**16 * (which + 1))
            elif step == "release":
                held.clear()
            elif step == "sweep":
                assert other.sweep(values, grace=0.0) == []
            elif key is None:
                continue
            elif step == "link":
                new = other.link(key)
                assert new is not None
                values[new] = values[key]
            elif step == "hold":
                held.append((other.get(key), values[key]))
            else:
                other.evict(key)
                deleted.append(key)
                del values[key]
            for key, value in values.items():
                assert other.get(key) == value
            assert not any(other.exists(key) for key in deleted)
            assert all(view == value for view, value in held)
            assert sorted(other.names()) == sorted(key.name for key in values)
        assert not marks(shm)
        held.clear()


@pytest.mark.slow
def test_readers_and_deleters_while_objects_move(
    shm: SharedMemoryConnector, other: SharedMemoryConnector
) -> None:
    stop = threading.Event()
    errors: list[str] = []

    def churn(connector: SharedMemoryConnector, value: int) -> None:
        for number in range(150):
            data = fill(2**16 + number, value)
            key = connector.put(data)
            for _ in range(3):
                if connector.get(key) != data:
                    errors.append("lost")
            second = connector.link(key)
            connector.evict(key)
            if connector.exists(key) or connector.get(key) is not None:
                errors.append("came back")
            if second is None or connector.take(second) != data:
                errors.append("lost with its first name")
            elif connector.exists(second):
                errors.append("came back after it was taken")

    def mover() -> None:
        while not stop.is_set():
            shm.tiers.mover.make_room(MIB)

    movers = [threading.Thread(target=mover) for _ in range(2)]
    threads = [
        threading.Thread(target=churn, args=(c, i))
        for i, c in enumerate([shm, other, SharedMemoryConnector(**shm.config())])
    ]
    for thread in movers + threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in movers:
        thread.join()
    assert not errors
    assert not marks(shm)
    assert on_disk(shm) == []
    assert not in_memory(shm)


def test_a_mark_that_nobody_left_does_not_count(shm: SharedMemoryConnector) -> None:
    """The hidden name of an object is none of its own."""
    key = shm.put(fill(SIZE))
    os.link(Path(shm.directory, key.name), Path(shm.directory, ".m-" + key.name))
    assert shm.usage() == (1, SIZE)
    assert shm.names() == [key.name]
    assert shm.space().memory == -(-SIZE // 4096) * 4096
    with exclusively(str(Path(shm.directory, key.name))) as fd:
        assert fd is not None
    shm.evict(key)
    assert not marks(shm)
