"""What a store says that it takes, against what the file systems say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daskref.connectors import (
    SharedMemoryConnector,
    SharedMemoryKey,
    open_connector,
)
from daskref.connectors.files import recycling as segments_module
from daskref.connectors.space import Footprint, Space, of_deleted
from tests.support.child_processes import Child
from tests.support.common import wait_until
from tests.support.namespaces import require_namespaces, run_case

MIB = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE")

READER = """
from daskref.connectors.shm import *
connector = SharedMemoryConnector(**config)
view = connector.get(key)
say(view[0])
sys.stdin.read()
"""


def ones(nbytes: int) -> Any:
    return np.ones(nbytes, "u1")


def blocks(directory: str) -> int:
    """Return what the files in a directory take up, but for the small ones."""
    found = [entry.stat() for entry in os.scandir(directory) if entry.is_file()]
    sizes = {each.st_ino: each.st_blocks * 512 for each in found if each.st_size > 1000}
    return sum(sizes.values())


def named(shm: SharedMemoryConnector) -> int:
    """Return what the files of the session take up in memory."""
    return blocks(shm.directory) + blocks(os.path.join(shm.directory, "free"))


def taken(shm: SharedMemoryConnector) -> tuple[int, int, int]:
    space = shm.space()
    return space.memory, space.pool, space.pinned


def test_each_byte_is_of_one_kind(shm: SharedMemoryConnector) -> None:
    assert taken(shm) == (0, 0, 0)
    key = shm.put(ones(2 * MIB))
    shm.link(key)  # counts once
    shm.put(b"x")
    assert taken(shm) == (2 * MIB + PAGE, 0, 0)
    evicted = shm.put(ones(MIB))
    view = shm.get(evicted)
    assert taken(shm) == (3 * MIB + PAGE, 0, 0)  # not pinned: it is there
    shm.evict(evicted)
    assert taken(shm) == (2 * MIB + PAGE, 0, MIB)
    assert named(shm) == 3 * MIB
    del view
    assert taken(shm) == (2 * MIB + PAGE, MIB, 0)


def test_what_another_process_reads_is_pinned(
    shm: SharedMemoryConnector, child: Callable[..., Child]
) -> None:
    key = shm.put(ones(MIB))
    reader = child(READER, config=shm.config(), key=tuple(key))
    assert reader.line() == "1"
    shm.evict(key)
    assert taken(shm) == (0, 0, MIB)
    reader.kill()
    assert taken(shm) == (0, MIB, 0)


@pytest.mark.parametrize("nbytes", [5000, MIB])
def test_what_the_pool_does_not_take_is_pinned_without_a_name(
    nbytes: int, child: Callable[..., Child], tmp_path: Path
) -> None:
    with SharedMemoryConnector(recycle=0, spill_directory=tmp_path) as shm:
        key = shm.put(ones(nbytes))
        reader = child(READER, config=shm.config(), key=tuple(key))
        assert reader.line() == "1"
        shm.evict(key)
        assert not named(shm)
        assert taken(shm) == (0, 0, -(-nbytes // PAGE) * PAGE)
        reader.kill()
        assert taken(shm) == (0, 0, 0)


def test_a_file_cut_to_nothing_is_not_pinned(shm: SharedMemoryConnector) -> None:
    for _ in range(2):  # the second one keeps a mapping
        key = shm.put(ones(4 * MIB))
        shm.evict(key)
    key = shm.put(ones(4 * MIB))
    assert shm.tiers.memory.kept is not None
    assert shm.tiers.memory.kept.inodes()
    segments_module.discard(os.path.join(shm.directory, key[0]))
    assert taken(shm) == (0, 0, 0)


def test_what_is_read_stays_in_the_pool_until_it_can_be_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a name, the mapping that its writer keeps would keep the pages."""
    monkeypatch.setattr(segments_module, "_LOOK", 0.05)
    with (
        SharedMemoryConnector(recycle_idle=0.05) as writer,
        SharedMemoryConnector(**writer.config()) as scheduler,
    ):
        for _ in range(2):
            key = writer.put(ones(4 * MIB))
            view = writer.get(key)
            scheduler.evict(key)
        gone = writer.put(ones(MIB))
        scheduler.evict(gone)
        wait_until(lambda: not taken(writer)[1], "the pool to be given back")
        assert taken(writer) == (0, 0, 4 * MIB)
        assert named(writer) == 4 * MIB
        assert view is not None
        assert view[-1] == 1
        del view
        wait_until(lambda: taken(writer) == (0, 0, 0), "it is given back as well")


def test_room_is_not_made_of_what_is_read(tmp_path: Path) -> None:
    with SharedMemoryConnector(
        budget="4 MiB", recycle="4 MiB", spill_directory=tmp_path
    ) as shm:
        key = shm.put(ones(3 * MIB))
        view = shm.get(key)
        shm.evict(key)
        key = shm.put(ones(3 * MIB))
        assert shm.overflows == 1
        assert taken(shm) == (0, 0, 3 * MIB)
        del view
        key = shm.put(ones(3 * MIB + PAGE))
        assert shm.overflows == 1
        assert taken(shm) == (3 * MIB + PAGE, 0, 0)


def test_disk_is_what_the_spill_directory_has(tmp_path: Path) -> None:
    with SharedMemoryConnector(budget=0, spill_directory=tmp_path) as shm:
        assert shm.space().disk == 0
        keys = [shm.put(ones(nbytes)) for nbytes in (MIB, 5000)]
        (spill,) = tmp_path.iterdir()
        wait_until(lambda: shm.space().disk == blocks(str(spill)), "they are the same")
        assert shm.space().disk >= MIB + 5000
        assert shm.space()[0] == 0
        for key in keys:
            shm.evict(key)
        assert shm.space().disk == 0


def own_file_system() -> list[Any]:
    """Compare with a tmpfs that nobody else uses."""
    before = os.statvfs("/dev/shm")
    told = []
    with SharedMemoryConnector(
        budget="20 MiB", recycle="2 MiB", recycle_idle=3600
    ) as shm:

        def look() -> None:
            there = os.statvfs("/dev/shm")
            used = (before.f_bfree - there.f_bfree) * there.f_bsize
            told.append((*taken(shm), used))

        look()
        keys = [shm.put(ones(nbytes)) for nbytes in (3 * MIB, 2 * MIB, 6000, 4 * MIB)]
        look()
        views = [shm.get(key) for key in keys]
        for key in keys:  # two of them do not go into the pool
            shm.evict(key)
        look()
        del views[1:3]
        look()
        views.clear()
        shm.put(b"")  # what its writer keeps goes at the next operation
        look()
    return told


@pytest.mark.slow
def test_all_of_it_adds_up_to_what_the_file_system_lost() -> None:
    require_namespaces()
    first, *told = run_case("tests.connectors.test_space", "own_file_system")
    assert first[:3] == [0, 0, 0]
    small = first[3]  # what a session has besides objects
    for memory, pool, pinned, used in told:
        assert memory + pool + pinned == used - small
    big = 9 * MIB + 2 * PAGE
    assert [each[:3] for each in told] == [
        [big, 0, 0],
        [0, 0, big],
        [0, 2 * MIB, 7 * MIB],
        [0, 2 * MIB, 0],
    ]


def test_stores_elsewhere_take_nothing_here(tmp_path: Path) -> None:
    for spec in ("local://", f"file://{tmp_path}/store"):
        with open_connector(spec) as connector:
            connector.put(ones(MIB))
            assert connector.space() == Space()


def test_several_stores_add_up(tmp_path: Path) -> None:
    spec = {
        "class": "daskref.connectors:MultiConnector",
        "connectors": {
            "small": {"connector": "local://", "policy": {"max_size_bytes": 10}},
            "large": {"connector": "shm://"},
        },
    }
    with open_connector(spec) as multi:
        keys = [multi.put(b"x"), multi.put(ones(MIB))]
        space = multi.space()
        assert [each and each.memory for each in multi.footprints(keys)] == [None, MIB]
        assert (space.memory, space.pool, space.disk) == (MIB, 0, 0)
        assert space.budget > MIB


def test_what_single_objects_take_adds_up(tmp_path: Path) -> None:
    options = {"budget": 3 * MIB, "recycle": 0, "spill_directory": tmp_path}
    with SharedMemoryConnector(**options) as connector:
        keys = [connector.put(ones(MIB)) for _ in range(5)]
        view = connector.get(keys[0])
        linked = connector.link(keys[1])
        gone = SharedMemoryKey("0" * 8 + "-" + "1" * 24, 1)
        *found, of_link, of_nothing = connector.footprints([*keys, linked, gone])
        space = connector.space()
        assert sum(each.memory for each in found) == space.memory
        assert sum(each.disk for each in found) == space.disk > 0
        assert len({each.file for each in found}) == 5
        assert of_link == found[1]
        assert of_nothing == Footprint()
        assert [each.mapped for each in found[:2]] == [1, 0]
        del view
        assert connector.footprints(keys[:1])[0].mapped == 0
        assert connector.footprints([]) == []


def test_a_store_elsewhere_cannot_tell_of_objects(tmp_path: Path) -> None:
    with open_connector(f"file://{tmp_path}/store") as connector:
        assert connector.footprints([connector.put(ones(MIB))]) == [None]


def test_a_session_that_is_gone_takes_nothing(tmp_path: Path) -> None:
    assert of_deleted(str(tmp_path / "gone")) == ({}, {})
