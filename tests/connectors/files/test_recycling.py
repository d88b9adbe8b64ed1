"""Files of evicted objects, which new ones are written to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from daskref.connectors import SharedMemoryConnector
from daskref.connectors.files import recycling as segments_module
from daskref.connectors.files._mapping import (
    SharedMapping,
)
from daskref.connectors.files.locks import exclusively, open_within
from tests.support.shm_files import files, fill, inode, pooled

MIB = 2**20


def test_evicted_files_are_written_again(shm):
    first = shm.put(fill(MIB))
    number = inode(shm, first)
    shm.evict(first)
    assert [path.stat().st_ino for path in pooled(shm)] == [number]
    second = shm.put(fill(MIB - 5000, 2))
    assert inode(shm, second) == number
    assert shm.get(second) == fill(MIB - 5000, 2)
    assert shm.get(first) is None
    assert not pooled(shm)
    assert shm.usage() == (1, MIB - 5000)


def test_what_another_process_evicts_is_written_again_through_the_mapping(
    shm, monkeypatch
):
    with SharedMemoryConnector(**shm.config()) as scheduler:
        for _ in range(2):  # new pages are written without a mapping
            key = shm.put(fill(2 * MIB))
            number = inode(shm, key)
            scheduler.evict(key)
    monkeypatch.setattr(SharedMapping, "map", None)  # its pages are mapped
    key = shm.put(fill(2 * MIB, 2))
    assert inode(shm, key) == number
    assert shm.get(key) == fill(2 * MIB, 2)


@pytest.mark.parametrize("writes", [True, False])
def test_what_is_lent_is_not_written_again_meanwhile(shm, writes):
    with SharedMemoryConnector(**shm.config()) as other:
        for seed in (1, 2, 3):  # new pages, and such as are mapped
            key = shm.put(fill(2 * MIB, seed))
            number = inode(shm, key)
            view = (shm if writes else other).lend(key)
            assert view.readonly
            assert view == fill(2 * MIB, seed)
            part = view[MIB:]
            del view
            shm.evict(key)
            assert shm.lend(key) is None
            later = shm.put(fill(2 * MIB, 9))
            assert inode(shm, later) != number
            assert part == fill(2 * MIB, seed)[MIB:]
            del part
            shm.evict(later)


def test_what_is_lent_goes_through_the_mapping_of_its_writer(shm, monkeypatch):
    key = shm.put(fill(2 * MIB))
    shm.evict(key)
    key = shm.put(fill(2 * MIB, 2))
    monkeypatch.setattr("daskref.connectors.files.directory.private_view", None)
    assert shm.lend(key) == fill(2 * MIB, 2)


def test_another_process_writes_the_files_again_too(shm):
    with SharedMemoryConnector(**shm.config()) as other:
        shm.evict(shm.put(fill(2 * MIB)))
        (path,) = pooled(shm)
        number = path.stat().st_ino
        key = other.put(fill(2 * MIB, 2))
        assert inode(other, key) == number
        other.evict(key)
        key = shm.put(fill(2 * MIB, 3))  # its kept mapping is still of that file
        assert inode(shm, key) == number
        assert other.get(key) == fill(2 * MIB, 3)


def test_a_mapped_file_that_shrank_and_grew_is_written_whole(shm):
    key = shm.put(fill(4 * MIB))
    with SharedMemoryConnector(**shm.config()) as other:
        shm.evict(key)
        small = other.put(fill(2 * MIB + 1, 2))
        other.evict(small)
    key = shm.put(fill(4 * MIB, 3))
    assert shm.get(key) == fill(4 * MIB, 3)
    other_key = shm.put(fill(2 * MIB + 1, 4))
    assert shm.get(other_key) == fill(2 * MIB + 1, 4)


@pytest.mark.parametrize("nbytes", [100_000, 2 * MIB])
def test_no_page_is_written_that_a_reader_sees(shm, nbytes):
    first = shm.put(fill(nbytes))
    view = shm.get(first)
    shm.evict(first)
    second = shm.put(fill(nbytes, 2))
    assert view == fill(nbytes)
    number = os.stat(pooled(shm)[0]).st_ino
    del view
    third = shm.put(fill(nbytes, 3))  # now it is free
    assert inode(shm, third) == number
    assert shm.get(second) == fill(nbytes, 2)


def test_a_reader_that_locks_too_late_gets_nothing(shm, monkeypatch):
    # 1. It opens the file. 2. Another evicts it. 3. Another writes into its pages.
    # 4. It takes the lock.
    first = shm.put(fill(100_000))
    second = []
    real = open_within

    def open_then_recycle(path, *args):
        fd = real(path, *args)
        monkeypatch.setattr("daskref.connectors.files.directory.open_within", real)
        shm.evict(first)
        second.append(shm.put(fill(100_000, 2)))
        return fd

    number = inode(shm, first)
    monkeypatch.setattr(
        "daskref.connectors.files.directory.open_within", open_then_recycle
    )
    assert shm.get(first) is None
    assert inode(shm, second[0]) == number
    assert shm.get(second[0]) == fill(100_000, 2)


def test_a_reader_waits_for_who_deletes_the_file(shm):
    key = shm.put(fill(100_000))
    found = []
    with exclusively(str(files(shm)[0])) as fd:
        assert fd is not None
        thread = threading.Thread(target=lambda: found.append(shm.get(key)))
        thread.start()
        os.unlink(files(shm)[0])
        thread.join(20)
    assert found == [None]


def test_a_link_made_while_its_object_is_evicted_is_not_overwritten(shm, monkeypatch):
    # 1. evict sees one name. 2. link makes another. 3. evict moves it to the pool.
    key = shm.put(fill(100_000))
    linked = []
    real = shm.tiers.pool.add

    def add(*args):
        linked.append(shm.link(key))
        return real(*args)

    monkeypatch.setattr(shm.tiers.pool, "add", add)
    shm.evict(key)
    assert pooled(shm)
    second = shm.put(fill(100_000, 2))
    assert inode(shm, second) != inode(shm, linked[0])
    assert shm.get(linked[0]) == fill(100_000)
    assert not pooled(shm)


def test_linked_objects_are_not_recycled(shm):
    key = shm.put(fill(100_000))
    linked = shm.link(key)
    assert linked.name.startswith(key.name[:8])
    shm.evict(key)
    assert not pooled(shm)
    assert shm.get(linked) == fill(100_000)
    shm.evict(linked)
    assert len(pooled(shm)) == 1


@pytest.mark.parametrize("recycle", [0, False, None, "0"])
def test_recycling_can_be_off(tmp_path, recycle):
    with SharedMemoryConnector(recycle=recycle, spill_directory=tmp_path) as connector:
        connector.evict(connector.put(fill(2 * MIB)))
        assert not pooled(connector)


def test_the_pool_is_bounded_and_forgets_the_oldest(tmp_path):
    with SharedMemoryConnector(recycle="5 MiB", spill_directory=tmp_path) as connector:
        keys = [connector.put(fill(2 * MIB, i)) for i in range(4)]
        numbers = [inode(connector, key) for key in keys]
        big = connector.put(fill(6 * MIB))
        for key in [*keys, big]:
            connector.evict(key)
        kept = {path.stat().st_ino for path in pooled(connector)}
        assert kept == set(numbers[2:])


def test_the_pool_does_not_keep_small_files_nor_too_many(shm, monkeypatch):
    shm.evict(shm.put(fill(1000)))
    assert not pooled(shm)
    monkeypatch.setattr(segments_module, "_COUNT", 3)
    keys = [shm.put(fill(100_000)) for _ in range(6)]
    shm.evict_batch(keys)
    assert len(pooled(shm)) == 3


def test_discarding_frees_the_pages_whoever_keeps_a_mapping(shm):
    key = shm.put(fill(4 * MIB))
    (path,) = files(shm, "????????-*")
    fd = os.open(path, os.O_RDONLY)
    try:
        segments_module.discard(str(path))
        assert os.fstat(fd).st_blocks == 0
        assert shm.get(key) is None
    finally:
        os.close(fd)


def test_a_writer_does_not_keep_pages_of_deleted_files(shm):
    kept = shm.tiers.memory.kept
    shm.evict(shm.put(fill(4 * MIB)))
    key = shm.put(fill(4 * MIB))  # into pages that exist: through a mapping
    number = inode(shm, key)
    kept.prune(shm.tiers.pool, interval=0)
    assert kept.inodes() == {number}
    os.unlink(files(shm, "????????-*")[0])
    kept.prune(shm.tiers.pool, interval=0)
    assert not kept.inodes()
    assert shm.directory not in Path("/proc/self/maps").read_text()


def test_a_file_that_comes_late_starts_no_thread(tmp_path):
    """Another thread may be deleting an object while its connector is closed."""

    def threads():
        return [t for t in threading.enumerate() if t.name == "daskref-pool"]

    before = threads()
    pool = segments_module.Pool(str(tmp_path), lambda: 8 * MIB, idle=3600)
    pool.close()
    path = tmp_path.parent / f"{tmp_path.name}-evicted"
    path.write_bytes(bytes(MIB))
    assert pool.add(str(path), MIB, 1)
    assert [segment.nbytes for segment in pool.segments()] == [MIB]
    assert threads() == before
