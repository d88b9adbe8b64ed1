"""How objects get into shared memory: pages, mappings, threads."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import re
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from daskref.connectors import SharedMemoryKey
from daskref.connectors.files import _mapping as memory
from daskref.connectors.files import pieces as pieces_module
from daskref.connectors.files import writing
from daskref.connectors.files._mapping import (
    HUGE,
    SharedMapping,
    can_collapse,
    can_populate,
    private_view,
)
from daskref.connectors.files.directory import new_name
from daskref.exceptions import ConnectorError
from tests.support.shm_files import files, fill, inode

MIB = 2**20


def test_an_object_is_hidden_until_it_is_whole(shm, monkeypatch):
    seen = []

    def write(fd, views):
        seen.extend(path.name for path in Path(shm.directory).glob(".*"))
        assert not files(shm, "????????-*")
        assert shm.usage().objects == 0
        os.pwritev(fd, views, 0)

    monkeypatch.setattr("daskref.connectors.files.parts.write_file", write)
    key = shm.put(b"bytes")
    assert seen == [f".w-{key.name}"]
    assert [path.name for path in files(shm, "????????-*")] == [key.name]


@pytest.mark.parametrize("nbytes", [5, 100_000, 2 * MIB])
def test_nothing_remains_of_a_put_that_fails(shm, monkeypatch, nbytes):
    shm.evict(shm.put(fill(nbytes)))

    def fail(*args):
        raise OSError(errno.EIO, "broken")

    for where in ("parts.write_file", "parts.write_mapped"):
        monkeypatch.setattr(f"daskref.connectors.files.{where}", fail)
    with pytest.raises(ConnectorError, match="could not be written"):
        shm.put(fill(nbytes))
    assert shm.usage() == (0, 0)
    assert not list(Path(shm.directory).glob(".*"))


@pytest.mark.parametrize("nbytes", [MIB, 20 * MIB + 13])
def test_mapped_writing_puts_each_byte_in_its_place(shm, nbytes):
    value = random.Random(0).randbytes(nbytes)
    cut = [0, 1, 4097, nbytes // 3, nbytes // 3, nbytes - 1, nbytes]
    frames = [value[a:b] for a, b in pairwise(cut)]
    for _ in range(3):  # new, recycled, recycled
        key = shm.put_frames(frames)
        assert shm.get(key) == value
        shm.evict(key)


@pytest.mark.skipif(not can_populate(), reason="needs Linux 5.14")
def test_new_pages_are_written_from_both_ends(shm, monkeypatch):
    """One thread maps what it makes, the other writes to the file."""
    seen = []
    real, mapped = writing.write_file, SharedMapping.populate
    both = threading.Barrier(2)

    def write(fd, views, offset=0):
        seen.append(offset)
        both.wait(20)  # nobody takes it all
        real(fd, views, offset)

    def populate(mapping, start, stop):
        both.wait(20)
        mapped(mapping, start, stop)

    value = random.Random(0).randbytes(20 * MIB)
    monkeypatch.setattr(writing, "_threads", lambda: 2)
    monkeypatch.setattr(writing, "can_collapse", lambda: False)
    monkeypatch.setattr(memory, "can_collapse", lambda: False)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_file", write)
        patch.setattr(SharedMapping, "populate", populate)
        key = shm.put(value)
    assert seen == list(range(18 * MIB, 8 * MIB, -2 * MIB))
    assert shm.get(key) == value
    shm.evict(key)
    maps, map_pages = [], SharedMapping.map
    with monkeypatch.context() as patch:
        patch.setattr(
            SharedMapping,
            "map",
            lambda mapping, *where: (maps.append(where), map_pages(mapping, *where)),
        )
        key = shm.put(value)
        assert min(maps)[0] == 10 * MIB  # the first half is mapped already
        assert shm.get(key) == value
        shm.evict(key)
        maps.clear()
        assert shm.get(shm.put(value)) == value
        assert not maps


@pytest.mark.skipif(not can_collapse(), reason="needs Linux 6.1, and such pages")
@pytest.mark.parametrize("pieces", [False, True])
def test_new_objects_are_on_huge_pages(shm, monkeypatch, pieces):
    monkeypatch.setattr(memory, "_SLOW", 60.0)
    nbytes = 5 * HUGE + 12345
    value = random.Random(0).randbytes(nbytes)
    made = []
    real = SharedMapping.make_huge
    monkeypatch.setattr(
        SharedMapping,
        "make_huge",
        lambda self, start: made.append(start) or real(self, start),
    )
    if pieces:
        name = new_name(shm.session.writer)
        key = SharedMemoryKey(name, nbytes)
        arriving = shm.tiers.start(name, nbytes, ".f-")
        for start in reversed(range(0, nbytes, MIB)):
            arriving.write(start, memoryview(value)[start : start + MIB])
        arriving.publish()
    else:
        key = shm.put_frames([value[:100], value[100:7000000], value[7000000:]])
    view = shm.get(key)
    assert view == value
    assert set(made) >= {number * HUGE for number in range(5)}
    assert huge_nbytes(shm, key) == 5 * HUGE
    view[7] ^= 255  # stays here
    assert shm.get(key) == value
    shm.evict(key)


@pytest.mark.skipif(not can_collapse(), reason="needs Linux 6.1, and such pages")
def test_huge_pages_that_do_not_come_at_once_are_not_waited_for(shm, monkeypatch):
    monkeypatch.setattr(memory, "_SLOW", 0.0)
    value = random.Random(0).randbytes(20 * MIB)
    key = shm.put(value)
    assert shm.get(key) == value
    assert huge_nbytes(shm, key) == HUGE


@pytest.mark.skipif(not can_populate(), reason="needs Linux 5.14")
def test_new_pages_that_are_not_to_be_had_are_no_error(shm, monkeypatch):
    def fail(mapping, start, stop):
        raise OSError(errno.EFAULT, "what a full tmpfs says")

    monkeypatch.setattr(writing, "_threads", lambda: 2)
    monkeypatch.setattr(SharedMapping, "populate", fail)
    value = random.Random(0).randbytes(20 * MIB)
    assert shm.get(shm.put(value)) == value
    assert shm.overflows == 1


def huge_nbytes(shm, key):
    """Return how much of an object lies on huge pages, as the kernel maps them."""
    fd = os.open(os.path.join(shm.directory, key.name), os.O_RDWR)
    try:
        mapping = SharedMapping(fd, key.nbytes)
        mapping.populate(0, key.nbytes)
        smaps = Path("/proc/self/smaps").read_text()
        (mine,) = re.findall(
            f"^{mapping.address:x}-.*?^ShmemPmdMapped: *([0-9]+) kB",
            smaps,
            re.DOTALL | re.MULTILINE,
        )
        return int(mine) * 1024
    finally:
        os.close(fd)


@pytest.mark.skipif(not can_populate(), reason="needs Linux 5.14")
def test_pieces_go_to_recycled_pages_through_a_mapping(shm, monkeypatch):
    monkeypatch.setattr(memory, "can_collapse", lambda: False)
    monkeypatch.setattr(pieces_module, "can_collapse", lambda: False)
    written, mapped = [], []
    write, real = pieces_module.write_file, SharedMapping.map
    monkeypatch.setattr(
        pieces_module,
        "write_file",
        lambda *args: (written.append(args[2]), write(*args)),
    )
    monkeypatch.setattr(
        SharedMapping,
        "map",
        lambda mapping, *span: (mapped.append(span[0]), real(mapping, *span)),
    )
    starts = [2 * MIB, 0, MIB]
    turns = [
        (starts, []),  # new pages
        ([], starts),  # old ones
        ([], []),  # old ones that are mapped
    ]
    numbers = set()
    for turn in turns:
        value = random.Random(0).randbytes(3 * MIB)
        name = new_name(shm.session.writer)
        key = SharedMemoryKey(name, len(value))
        arriving = shm.tiers.start(name, len(value), ".f-")
        for start in starts:
            arriving.write(start, memoryview(value)[start : start + MIB])
        arriving.publish()
        assert (written, mapped) == turn
        assert shm.get(key) == value
        numbers.add(inode(shm, key))
        shm.evict(key)
        written.clear()
        mapped.clear()
    assert len(numbers) == 1


@pytest.mark.skipif(not can_populate(), reason="needs Linux 5.14")
def test_populate_reports_what_would_kill():
    fd = os.memfd_create("daskref-test")
    try:
        mapping = SharedMapping(fd, 4096)  # past the end of the file
        with pytest.raises(OSError, match="Bad address"):
            mapping.populate(0, 4096)
        with pytest.raises(OSError, match="Bad address"):
            mapping.map(0, 4096)
        os.ftruncate(fd, 4096)
        mapping.map(0, 4096)
        assert os.fstat(fd).st_blocks  # in a hole it makes them, or says that it cannot
        mapping.populate(0, 4096)
        ctypes.memset(mapping.address, 7, 4096)
        assert private_view(fd, 4096) == fill(4096, 7)
    finally:
        os.close(fd)
