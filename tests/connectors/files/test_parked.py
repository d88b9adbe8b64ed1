from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from daskref.connectors import SharedMemoryConnector
from daskref.connectors.buffers import address
from daskref.connectors.files import parked as parked_module
from daskref.connectors.files._mapping import (
    map_private,
    unmap,
)
from daskref.connectors.files.locks import exclusively
from daskref.connectors.files.parked import (
    ParkedMappings,
    is_unwritten,
    read_pages,
    scan_pages,
)
from daskref.connectors.files.recycling import discard
from tests.support.common import wait_until

MIB = 2**20


def put(connector, value=1, nbytes=2 * MIB + 5000):
    return connector.put(bytes([value]) * nbytes)


def path(connector, key):
    return str(Path(connector.directory, key.name))


def mappings():
    """Return the paths of the private mappings of files, by address."""
    with open("/proc/self/maps") as lines:
        found = [line.split(maxsplit=5) for line in lines]
    return {
        int(words[0].split("-")[0], 16): words[5]
        for words in found
        if len(words) == 6 and words[1] == "rw-p"
    }


def mapped(connector):
    """Return the addresses of the private mappings of a session's files."""
    return {where for where, at in mappings().items() if connector.directory in at}


def is_locked(connector, key):
    with exclusively(path(connector, key)) as fd:
        return fd is None


def parked(connector):
    return connector.tiers.memory.parked


def test_the_next_read_gets_the_same_mapping(shm):
    key = put(shm)
    view = shm.get(key)
    where = address(view)
    assert view == b"\1" * key.nbytes
    del view
    assert mapped(shm) == {where}
    again = shm.get(key)
    assert address(again) == where
    assert again == b"\1" * key.nbytes
    assert not again.readonly


def test_a_parked_mapping_holds_no_lock_and_one_that_is_used_does(shm):
    key = put(shm)
    for _ in range(2):
        part = shm.get(key)[5:10]
        assert is_locked(shm, key)
        del part
        assert len(parked(shm)) == 1
        assert not is_locked(shm, key)


def test_used_mappings_need_no_descriptors(shm):
    key = put(shm)
    before = len(os.listdir("/proc/self/fd"))
    views = [shm.get(key) for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) == before
    del views
    assert len(os.listdir("/proc/self/fd")) == before


def _by_index(view):
    view[len(view) // 2] = 7


def _by_numpy(view):
    np.frombuffer(view, "u1")[-3:] = 7


def _by_c(view):
    ctypes.memset(address(view), 7, 1)


def _the_same_value(view):
    view[5000] = view[5000]


@pytest.mark.parametrize("write", [_by_index, _by_numpy, _by_c, _the_same_value])
def test_a_mapping_with_one_written_page_is_not_used_again(shm, write):
    key = put(shm)
    view = shm.get(key)
    assert view == b"\1" * key.nbytes  # all pages are there
    write(view)
    del view
    assert not parked(shm)
    assert not mapped(shm)
    assert shm.get(key) == b"\1" * key.nbytes


def test_two_readers_at_a_time_have_a_mapping_each(shm):
    key = put(shm)
    shm.get(key)
    assert len(parked(shm)) == 1
    first, second = shm.get(key), shm.get(key)
    assert len(mapped(shm)) == 2
    first[0] = second[1] = 9
    assert second[:3] == b"\1\x09\1"
    assert first[:3] == b"\x09\1\1"
    assert shm.get(key)[:3] == b"\1\1\1"


def test_what_another_object_parked_is_not_used(shm):
    keys = [put(shm, value) for value in (1, 2)]
    shm.get(keys[0])
    shm.get(keys[1])
    assert len(parked(shm)) == 2
    for value in (2, 1):
        assert shm.get(keys[value - 1]) == bytes([value]) * keys[0].nbytes


def test_a_recycled_file_shows_its_new_object(shm):
    old = put(shm, 1)
    assert shm.get(old) == b"\1" * old.nbytes
    inode = os.stat(path(shm, old)).st_ino
    shm.evict(old)
    new = put(shm, 2, nbytes=old.nbytes - 4096)
    assert os.stat(path(shm, new)).st_ino == inode
    assert shm.get(old) is None
    assert shm.get(new) == b"\2" * new.nbytes


def test_the_same_name_for_another_object_shows_that_one(shm):
    key = shm.new_key()
    for value in range(1, 5):
        nbytes = 2 * MIB - value // 2 * 5000
        shm.set(key, bytes([value]) * nbytes)
        for _ in range(2):
            assert shm.get(key) == bytes([value]) * nbytes
        shm.evict(key)
        assert shm.get(key) is None


def test_parking_keeps_nobody_from_giving_pages_back(shm):
    key = put(shm)
    assert shm.get(key) == b"\1" * key.nbytes
    fd = os.open(path(shm, key), os.O_RDONLY)
    try:
        assert discard(path(shm, key))
        assert os.fstat(fd).st_blocks == 0
    finally:
        os.close(fd)


def test_what_was_evicted_meanwhile_is_not_parked(shm):
    key = put(shm)
    view = shm.get(key)
    shm.evict(key)
    assert view == b"\1" * key.nbytes
    del view
    assert not parked(shm)
    assert not mapped(shm)


def test_small_objects_are_not_parked(shm):
    shm.get(put(shm, nbytes=parked_module.SMALLEST - 1))
    assert not parked(shm)
    assert not mapped(shm)


def test_few_mappings_are_parked(shm):
    keys = [put(shm, value) for value in range(1, 7)]
    for key in keys:
        shm.get(key)
    assert len(parked(shm)) == len(mapped(shm)) == 4
    before = mapped(shm)
    assert address(shm.get(keys[5])) in before
    assert address(shm.get(keys[2])) in before
    del before
    view = shm.get(keys[0])  # the oldest was dropped
    assert len(mapped(shm)) == 5
    assert view == b"\1" * keys[0].nbytes


def test_parked_bytes_are_bounded(tmp_path):
    with SharedMemoryConnector(root=tmp_path, recycle="7 MiB") as connector:
        keys = [put(connector, value, 3 * MIB) for value in (1, 2, 3)]
        keys.append(put(connector, 4, 8 * MIB))
        for key in keys:
            connector.get(key)
        assert len(mapped(connector)) == 2


def test_nothing_is_parked_where_nothing_is_recycled(tmp_path):
    with SharedMemoryConnector(root=tmp_path, recycle=0) as connector:
        connector.get(put(connector))
        assert not mapped(connector)


def test_idle_mappings_are_dropped(shm):
    shm.tiers.memory.parked = ParkedMappings(lambda: 2**30, idle=0.05)
    keys = [put(shm, value) for value in (1, 2)]
    for _ in range(2):  # the second time, the thread sleeps without a limit
        for key in keys:
            shm.get(key)
        assert parked(shm)
        wait_until(lambda: not mapped(shm), "mappings dropped")
        assert not parked(shm)
        wait_until(lambda: parked(shm)._asleep, "the thread waits")
    parked(shm).close()


def test_closing_drops_them_and_what_comes_later_is_not_parked(tmp_path):
    connector = SharedMemoryConnector(root=tmp_path)
    keys = [put(connector, value) for value in (1, 2)]
    connector.get(keys[0])
    view = connector.get(keys[1])
    root, where = str(tmp_path), address(view)
    thread = parked(connector)._background.thread
    connector.close()
    left = {where for where, at in mappings().items() if root in at}
    assert left == {where}
    assert view == b"\2" * keys[1].nbytes
    del view
    assert where not in mappings()
    thread.join(20)
    assert not thread.is_alive()


def test_closing_while_one_is_released(shm, monkeypatch):
    view = shm.get(put(shm))

    def close(where, nbytes):
        parked(shm).close()
        return True

    monkeypatch.setattr(parked_module, "is_unwritten", close)
    del view
    assert not parked(shm)
    assert not mapped(shm)


def test_dropping_a_connector_ends_its_thread(tmp_path):
    connector = SharedMemoryConnector(root=tmp_path)
    connector.get(put(connector))
    thread = parked(connector)._background.thread
    del connector
    thread.join(20)
    assert not thread.is_alive()


def test_nothing_is_parked_where_the_kernel_does_not_tell(shm, monkeypatch):
    def refuse(name, *args, real=os.open, **kwargs):
        if name == "/proc/self/pagemap":
            raise PermissionError
        return real(name, *args, **kwargs)

    key = put(shm)
    view = shm.get(key)
    monkeypatch.setattr(os, "open", refuse)
    del view
    assert not mapped(shm)
    assert shm.get(key) == b"\1" * key.nbytes


def test_without_proc_the_mapping_keeps_the_lock_itself(shm, monkeypatch):
    def refuse(name, *args, real=os.open, **kwargs):
        if str(name).startswith("/proc/"):
            raise FileNotFoundError
        return real(name, *args, **kwargs)

    key = put(shm)
    monkeypatch.setattr(os, "open", refuse)
    view = shm.get(key)
    assert view == b"\1" * key.nbytes
    assert is_locked(shm, key)
    del view
    assert not is_locked(shm, key)
    assert not mapped(shm)


FORK = """
import os
from daskref.connectors.buffers import address
from daskref.connectors.shm import *
connector = SharedMemoryConnector(root=root)
keys = [connector.put(bytes([i]) * 2**21) for i in (1, 2)]
connector.get(keys[0])
view = connector.get(keys[1])
parked = connector.tiers.memory.parked
before = len(parked)
pid = os.fork()
if not pid:
    assert not parked
    with open("/proc/self/maps") as lines:
        assert not any(keys[0].name in line for line in lines)
    view[0] = 9  # the child's own
    del view
    assert not parked
    for _ in range(2):
        first, second = map(connector.get, keys)
        assert (first, second) == (b"\\1" * 2**21, b"\\2" * 2**21)
        del first, second
    assert len(parked) == 2
    os._exit(0)
say(before, os.waitpid(pid, 0)[1], view == b"\\2" * 2**21, len(parked))
where = address(view)
del view
same = connector.get(keys[1])
say(address(same) == where, same == b"\\2" * 2**21)
say(connector.get(keys[0]) == b"\\1" * 2**21)
connector.close()
"""


def test_a_forked_child_parks_its_own(tmp_path, child):
    process = child(FORK, root=str(tmp_path))
    assert process.line() == "1 0 True 1"
    assert process.line() == "True True"
    assert process.line() == "True"
    process.wait()


def test_a_forked_childs_view_keeps_the_lock(shm, child):
    key = put(shm)
    process = child(
        """
import os
from daskref.connectors.shm import *
connector = SharedMemoryConnector(**config)
view = connector.get(SharedMemoryKey(*key))
pid = os.fork()
if not pid:
    sys.stdin.readline()
    os._exit(0)
del view
say(len(connector.tiers.memory.parked))
os.waitpid(pid, 0)
say("ended")
""",
        config=shm.config(),
        key=tuple(key),
    )
    assert process.line() == "1"
    assert is_locked(shm, key)
    process.say()
    assert process.line() == "'ended'"
    assert not is_locked(shm, key)


@pytest.mark.slow
def test_threads_never_see_each_others_writes(shm):
    keys = [put(shm, value, MIB + value * 4096) for value in (1, 2, 3)]
    errors: list[object] = []

    def work(seed):
        for turn in range(150):
            which = (seed + turn) % 3
            view = shm.get(keys[which])
            if view != bytes([which + 1]) * keys[which].nbytes:
                errors.append((seed, turn))
            if (seed * turn) % 5 == 0:
                view[(turn * 7919) % len(view)] = 99

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert len(mapped(shm)) == len(parked(shm)) <= 4


@pytest.mark.parametrize(
    "look", [scan_pages, read_pages, lambda fd, *args: is_unwritten(*args)]
)
@pytest.mark.parametrize("pages", [1, 3, 20_000])
def test_written_pages_are_told(look, pages):
    file = os.memfd_create("daskref-test")
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    size = pages * mmap.PAGESIZE - 100
    os.ftruncate(file, size)
    try:
        for index in {0, pages // 2, pages - 1}:
            where = map_private(file, size)
            try:
                page = (ctypes.c_ubyte * 8).from_address(where + index * mmap.PAGESIZE)
                try:
                    assert look(pagemap, where, size)  # nothing is mapped yet
                except OSError as exc:
                    pytest.skip(f"before Linux 6.7 ({exc})")
                ctypes.string_at(where, size)
                assert look(pagemap, where, size)
                page[3] = 1
                assert not look(pagemap, where, size)
            finally:
                unmap(where, size)
    finally:
        os.close(file)
        os.close(pagemap)
