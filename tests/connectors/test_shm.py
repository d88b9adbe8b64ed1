from __future__ import annotations

import ctypes
import errno
import os
import pickle
import random
import re
import shutil
import subprocess
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from daskref.connectors import SharedMemoryConnector, SharedMemoryKey, memory, writing
from daskref.connectors import pieces as pieces_module
from daskref.connectors import segments as segments_module
from daskref.connectors.locks import EXCLUSIVE, exclusively, open_plain, try_lock
from daskref.connectors.memory import (
    HUGE,
    SharedMapping,
    can_collapse,
    can_populate,
    private_view,
)
from daskref.connectors.objectnames import new_name
from daskref.exceptions import (
    ConfigError,
    ConnectorClosedError,
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)

MIB = 2**20


def fill(nbytes, value=1):
    return bytes([value]) * nbytes


def files(connector, pattern="*-*"):
    """Objects in shared memory."""
    return sorted(p for p in Path(connector.directory).glob(pattern) if p.is_file())


def pooled(connector):
    return sorted(Path(connector.directory, "free").iterdir())


def inode(connector, key):
    return os.stat(Path(connector.directory, key.name)).st_ino


# Keys and configuration.


def test_keys_name_the_file_and_its_size(shm):
    key = shm.put(b"bytes")
    assert isinstance(key, SharedMemoryKey)
    assert key.nbytes == 5
    assert os.stat(Path(shm.directory, key.name)).st_size == 5
    assert os.stat(Path(shm.directory, key.name)).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("nbytes", [-2, True, 5.0, "5", None])
def test_sizes_in_keys_are_checked(shm, nbytes):
    key = shm.put(b"bytes")._replace(nbytes=nbytes)
    with pytest.raises(WireError):
        shm.get(key)


@pytest.mark.parametrize(
    "name", ["0" * 33, "00000000-" + "0" * 23, "00000000-" + "0" * 24 + "\n", "lock"]
)
def test_names_in_keys_are_checked(shm, name):
    with pytest.raises(WireError):
        shm.get(SharedMemoryKey(name, 5))


def test_a_session_directory_can_be_joined_by_its_path(shm):
    key = shm.put(b"bytes")
    with SharedMemoryConnector(shm.directory) as other:
        assert other.get(key) == b"bytes"
        assert other.directory == shm.directory


def test_another_directory_becomes_the_root_of_a_new_session(tmp_path):
    with SharedMemoryConnector(tmp_path) as connector:
        assert Path(connector.directory).parent == tmp_path
        assert repr(connector) == f"<SharedMemoryConnector {connector.directory}>"
    assert not list(tmp_path.iterdir())


def test_another_session_at_the_path_is_refused(shm):
    with pytest.raises(ConnectorUnavailableError):
        SharedMemoryConnector(**{**shm.config(), "nonce": "0" * 32})
    with pytest.raises(ConnectorUnavailableError):
        SharedMemoryConnector(**{**shm.config(), "directory": "/dev/shm/daskref-x"})


@pytest.mark.parametrize("option", ["budget", "recycle"])
def test_malformed_limits_name_the_setting(option):
    with pytest.raises(ConfigError, match=rf"daskref\.shm\.{option}='much'"):
        SharedMemoryConnector(**{option: "much"})


def test_dropping_a_connector_leaves_the_session(tmp_path):
    connector = SharedMemoryConnector(root=tmp_path)
    path = connector.directory
    connector.put(b"bytes")
    assert os.path.isdir(path)
    del connector
    assert not os.path.exists(path)


def test_leaving_the_program_leaves_the_session(tmp_path, child):
    process = child(
        "from daskref.connectors.shm import SharedMemoryConnector\n"
        "connector = SharedMemoryConnector(root=root)\n"
        "view = connector.get(connector.put(b'bytes'))",
        root=str(tmp_path),
    )
    process.wait()
    assert not list(tmp_path.iterdir())


# Reading.


def test_views_need_no_descriptors(shm):
    key = shm.put(fill(5000))
    before = len(os.listdir("/proc/self/fd"))
    views = [shm.get(key) for _ in range(200)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(view[-1] == 1 for view in views)


def test_many_views_under_a_low_limit_on_open_files(child):
    process = child("""
import os, resource
from daskref.connectors.shm import SharedMemoryConnector
with SharedMemoryConnector() as connector:
    keys = [connector.put(bytes([i % 256]) * 5000) for i in range(300)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    views = [connector.get(key) for key in keys]
    say(all(view[4999] == i % 256 for i, view in enumerate(views)))
    used = []
    try:
        while True:
            used.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    try:
        connector.get(keys[0])
    except Exception as exc:
        say("ulimit -n" in str(exc))
    while used:
        os.close(used.pop())
""")
    assert process.line() == "True"
    assert process.line() == "True"
    process.wait()


def test_too_many_mappings_fall_back_to_a_copy(shm, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOMEM, "too many mappings")

    key = shm.put(fill(100_000))
    monkeypatch.setattr("daskref.connectors.memory._map", fail)
    view = shm.get(key)
    assert view == fill(100_000)
    assert not view.readonly
    with exclusively(str(files(shm)[0])) as fd:
        assert fd is not None, "a copy needs no lock"


def test_a_view_holds_the_lock_until_its_last_slice_goes(shm):
    key = shm.put(fill(100_000))
    path = str(files(shm)[0])
    part = shm.get(key)[5:10]
    with exclusively(path) as fd:
        assert fd is None
    del part
    with exclusively(path) as fd:
        assert fd is not None


def test_a_killed_reader_holds_no_lock(shm, child):
    key = shm.put(fill(100_000))
    process = child(
        "from daskref.connectors.shm import *\n"
        "connector = SharedMemoryConnector(**config)\n"
        "view = connector.get(SharedMemoryKey(*key))\n"
        "say(view[7])\nsys.stdin.readline()",
        config=shm.config(),
        key=tuple(key),
    )
    assert process.line() == "1"
    with exclusively(str(files(shm)[0])) as fd:
        assert fd is None
    process.kill()
    with exclusively(str(files(shm)[0])) as fd:
        assert fd is not None


def test_a_file_of_another_size_is_an_error(shm):
    key = shm.put(b"bytes")
    files(shm)[0].write_bytes(b"byt")
    with pytest.raises(WireError, match="3 bytes, its key says 5"):
        shm.get(key)
    shm.evict(key)


def test_a_link_under_a_valid_name_is_not_followed(shm, tmp_path):
    (tmp_path / "secret").write_bytes(b"bytes")
    name = "0" * 8 + "-" + "0" * 24
    Path(shm.directory, name).symlink_to(tmp_path / "secret")
    with pytest.raises(ConnectorError):
        shm.get(SharedMemoryKey(name, 5))
    shm.evict(SharedMemoryKey(name, 5))
    assert (tmp_path / "secret").exists()


# Writing.


def test_an_object_is_hidden_until_it_is_whole(shm, monkeypatch):
    seen = []

    def write(fd, views):
        seen.extend(path.name for path in Path(shm.directory).glob(".*"))
        assert not files(shm, "????????-*")
        assert shm.usage().objects == 0
        os.pwritev(fd, views, 0)

    monkeypatch.setattr("daskref.connectors.objects.write_file", write)
    key = shm.put(b"bytes")
    assert seen == [f".w-{key.name}"]
    assert [path.name for path in files(shm, "????????-*")] == [key.name]


@pytest.mark.parametrize("nbytes", [5, 100_000, 2 * MIB])
def test_nothing_remains_of_a_put_that_fails(shm, monkeypatch, nbytes):
    shm.evict(shm.put(fill(nbytes)))

    def fail(*args):
        raise OSError(errno.EIO, "broken")

    for where in ("objects.write_file", "parts.write_file", "parts.write_mapped"):
        monkeypatch.setattr(f"daskref.connectors.{where}", fail)
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
    populated = []
    with monkeypatch.context() as patch:
        patch.setattr(
            SharedMapping,
            "populate",
            lambda mapping, *where: (populated.append(where), mapped(mapping, *where)),
        )
        key = shm.put(value)
        assert min(populated)[0] == 10 * MIB  # the first half is mapped already
        assert shm.get(key) == value
        shm.evict(key)
        populated.clear()
        assert shm.get(shm.put(value)) == value
        assert not populated


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
        arriving = shm.start(name, nbytes, ".f-")
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
def test_pieces_go_to_recycled_pages_through_a_mapping_the_second_time(
    shm, monkeypatch
):
    monkeypatch.setattr(memory, "can_collapse", lambda: False)
    monkeypatch.setattr(pieces_module, "can_collapse", lambda: False)
    written, populated = [], []
    write, populate = pieces_module.write_file, SharedMapping.populate
    monkeypatch.setattr(
        pieces_module,
        "write_file",
        lambda *args: (written.append(args[2]), write(*args)),
    )
    monkeypatch.setattr(
        SharedMapping,
        "populate",
        lambda mapping, *span: (populated.append(span[0]), populate(mapping, *span)),
    )
    starts = [2 * MIB, 0, MIB]
    turns = [
        (starts, []),  # new pages
        (starts, []),  # old ones
        ([], starts),  # old ones again
        ([], []),  # old ones that are mapped
    ]
    numbers = set()
    for turn in turns:
        value = random.Random(0).randbytes(3 * MIB)
        name = new_name(shm.session.writer)
        key = SharedMemoryKey(name, len(value))
        arriving = shm.start(name, len(value), ".f-")
        for start in starts:
            arriving.write(start, memoryview(value)[start : start + MIB])
        arriving.publish()
        assert (written, populated) == turn
        assert shm.get(key) == value
        numbers.add(inode(shm, key))
        shm.evict(key)
        written.clear()
        populated.clear()
    assert len(numbers) == 1


@pytest.mark.skipif(not can_populate(), reason="needs Linux 5.14")
def test_populate_reports_what_would_kill():
    fd = os.memfd_create("daskref-test")
    try:
        mapping = SharedMapping(fd, 4096)  # past the end of the file
        with pytest.raises(OSError, match="Bad address"):
            mapping.populate(0, 4096)
        os.ftruncate(fd, 4096)
        mapping.populate(0, 4096)
        ctypes.memset(mapping.address, 7, 4096)
        assert private_view(fd, 4096) == fill(4096, 7)
    finally:
        os.close(fd)


# Recycling.


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
    monkeypatch.setattr(SharedMapping, "populate", None)  # its pages are mapped
    key = shm.put(fill(2 * MIB, 2))
    assert inode(shm, key) == number
    assert shm.get(key) == fill(2 * MIB, 2)


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
    real = open_plain

    def open_then_recycle(path, *args):
        fd = real(path, *args)
        monkeypatch.setattr("daskref.connectors.objects.open_plain", real)
        shm.evict(first)
        second.append(shm.put(fill(100_000, 2)))
        return fd

    number = inode(shm, first)
    monkeypatch.setattr("daskref.connectors.objects.open_plain", open_then_recycle)
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
    real = shm._pool.add

    def add(*args):
        linked.append(shm.link(key))
        return real(*args)

    monkeypatch.setattr(shm._pool, "add", add)
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
    kept = shm._memory.kept
    shm.evict(shm.put(fill(4 * MIB)))
    key = shm.put(fill(4 * MIB))  # into pages that exist: through a mapping
    number = inode(shm, key)
    kept.prune(shm._pool, interval=0)
    assert kept.inodes() == {number}
    os.unlink(files(shm, "????????-*")[0])
    kept.prune(shm._pool, interval=0)
    assert not kept.inodes()
    assert shm.directory not in Path("/proc/self/maps").read_text()


# Budget and spilling.


def test_objects_past_the_budget_go_to_disk(tmp_path):
    spill = tmp_path / "spill"
    spill.mkdir()
    options = {"budget": "5 MiB", "recycle": 0, "spill_directory": spill}
    connector = SharedMemoryConnector(root=tmp_path, **options)
    keys = [connector.put(fill(2 * MIB, i)) for i in range(4)]
    assert [Path(connector.directory, key.name).exists() for key in keys] == [
        *(True, True, False, False)
    ]
    (directory,) = spill.iterdir()
    assert directory.name == Path(connector.directory).name + ".spill"
    assert directory.stat().st_mode & 0o777 == 0o700
    other = SharedMemoryConnector(**connector.config())
    for number, key in enumerate(keys):
        assert other.exists(key)
        assert other.get(key) == fill(2 * MIB, number)
    assert other.usage() == (4, 8 * MIB)
    linked = other.link(keys[3])
    assert other.renew(linked, 0.0)
    other.evict(keys[3])
    assert connector.get(keys[3]) is None
    assert connector.get(linked) == fill(2 * MIB, 3)
    assert connector.sweep() == [linked]
    # Room again: new objects go to memory.
    connector.evict(keys[0])
    assert Path(connector.directory, connector.put(fill(2 * MIB)).name).exists()
    connector.close()
    assert other.get(keys[2]) == fill(2 * MIB, 2)
    other.close()
    assert [path.name for path in tmp_path.iterdir()] == ["spill"]
    assert not list(spill.iterdir())


def test_the_pool_gives_way_to_objects(tmp_path):
    with SharedMemoryConnector(
        budget="8 MiB", recycle="8 MiB", spill_directory=tmp_path
    ) as connector:
        connector.evict(connector.put(fill(6 * MIB)))
        assert len(pooled(connector)) == 1
        key = connector.put(fill(2 * MIB))  # too small for that file
        key = connector.put(fill(4 * MIB))
        assert not pooled(connector)
        assert Path(connector.directory, key.name).exists()
    assert not list(tmp_path.iterdir())


def test_two_processes_share_one_directory_on_disk(tmp_path, child):
    spills = [tmp_path / "one", tmp_path / "two"]
    for path in spills:
        path.mkdir()
    with SharedMemoryConnector(budget=0, spill_directory=spills[0]) as connector:
        config = {**connector.config(), "spill_directory": str(spills[1])}
        process = child(
            "from daskref.connectors.shm import *\n"
            "connector = SharedMemoryConnector(**config)\n"
            "say(tuple(connector.put(b'theirs')))\nsys.stdin.readline()",
            config=config,
        )
        key = SharedMemoryKey(*eval(process.line()))
        process.kill()
        assert connector.get(key) == b"theirs"
        ours = connector.put(b"ours")
        assert connector.get(ours) == b"ours"
        assert len([*spills[0].iterdir(), *spills[1].iterdir()]) == 1
    assert not [*spills[0].iterdir(), *spills[1].iterdir()]


def test_the_directory_on_disk_of_a_killed_session_is_swept(tmp_path, child):
    root, spill = tmp_path / "root", tmp_path / "spill"
    root.mkdir()
    spill.mkdir()
    options = {"root": str(root), "spill_directory": str(spill), "budget": 0}
    code = (
        "from daskref.connectors.shm import *\n"
        "connector = SharedMemoryConnector(**options)\n"
        "say(tuple(connector.put(b'bytes')))\nsys.stdin.readline()"
    )
    dead, live, rebooted = (child(code, options=options) for _ in range(3))
    keys = [process.line() for process in (dead, live, rebooted)]
    assert all(keys)
    assert len(list(spill.iterdir())) == 3
    assert SharedMemoryConnector.sweep_sessions(root, spill) == []
    dead.kill()
    rebooted.kill()
    # As after a reboot: the memory is gone, the disk is not.
    ended = next(p for p in root.iterdir() if not _held(p))
    shutil.rmtree(ended)
    removed = SharedMemoryConnector.sweep_sessions(root, spill)
    assert len(removed) == 2
    assert len(list(spill.iterdir())) == len(list(root.iterdir())) == 1
    live.say()
    live.wait()
    assert not [*root.iterdir(), *spill.iterdir()]


def _held(session):
    with exclusively(str(session / "lock")) as fd:
        return fd is None


def test_a_full_tmpfs_spills_and_a_full_disk_is_a_clear_error(shm, monkeypatch):
    def full(fd, views):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    parts = shm._memory.parts
    real = parts.write
    monkeypatch.setattr(parts, "write", full)
    value = fill(100_000)
    key = shm.put(value)
    assert shm.get(key) == value
    assert not Path(shm.directory, key.name).exists()
    monkeypatch.setattr("daskref.connectors.objects.write_file", full)
    with pytest.raises(ConnectorError) as caught:
        shm.put(fill(1000))
    for part in ("SharedMemoryConnector", "1000 B", "B free in", "daskref.shm.budget"):
        assert part in str(caught.value)
    assert "daskref.spill-directory" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message
    assert shm.usage() == (1, 100_000)
    monkeypatch.setattr(parts, "write", real)


def test_a_spill_directory_that_is_not_there_is_a_clear_error(tmp_path):
    missing = tmp_path / "missing"
    with (
        SharedMemoryConnector(budget=0, spill_directory=missing) as connector,
        pytest.raises(ConnectorError, match="missing"),
    ):
        connector.put(b"bytes")


TINY = """
import errno, os, subprocess
from daskref.connectors import parts, shm
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", root], check=True)
MIB = 2**20
parts.can_populate = lambda: populate
with shm.SharedMemoryConnector(root=root, spill_directory=spill, budget=1.0) as c:
    if lies:
        c._room = lambda nbytes: True  # as when another process fills it meanwhile
    values = [bytes([i]) * (9 * MIB + i) for i in range(12)]
    keys = [c.put(value) for value in values]
    in_memory = sum(os.path.exists(os.path.join(c.directory, k.name)) for k in keys)
    same = all(c.get(k) == v for k, v in zip(keys, values))
    say(in_memory, same, c.usage() == (12, sum(map(len, values))))
    for key in keys[:4]:
        c.evict(key)
    keys = [c.put(bytes([i]) * 30 * MIB) for i in range(2)]
    say(os.path.exists(os.path.join(c.directory, keys[0].name)), c.get(keys[0])[-1])
    big = c.put(bytes(70 * MIB))
    say(c.get(big)[-1], os.path.exists(os.path.join(c.directory, big.name)))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", spill], check=True)
    c._disk = None
    try:
        c.put(bytes(70 * MIB))
    except Exception as exc:
        say(type(exc).__name__, "no room" in str(exc))
    say([n for n in os.listdir(c.directory) if n.startswith(".")])
"""


@pytest.mark.slow
@pytest.mark.parametrize("lies", [False, True])
@pytest.mark.parametrize("populate", [False, True])
def test_a_tiny_tmpfs(tmp_path, child, lies, populate):
    prefix = ("unshare", "-m")
    root, spill = tmp_path / "root", tmp_path / "spill"
    for path in (root, spill):
        path.mkdir()
    probe = [*prefix, "mount", "-t", "tmpfs", "none", str(root)]
    if (
        not shutil.which("unshare")
        or subprocess.run(probe, capture_output=True).returncode
    ):
        pytest.skip("mounting a tmpfs is not permitted")
    names = {"root": str(root), "spill": str(spill), "lies": lies, "populate": populate}
    process = child(TINY, prefix=prefix, **names)
    # 7 of 9 MiB, of 64; none is lost.
    assert process.line() == "7 True True"
    assert process.line() == "True 0"
    assert process.line() == "0 False"
    # Its directory on disk is hidden by the second mount.
    assert process.line() in (
        "'ConnectorError' True",
        "'ConnectorUnavailableError' False",
    )
    assert process.line() == "[]"
    process.wait()


def test_space_for_people(shm):
    shm.put(fill(5000))
    space = shm.space()
    assert space["objects"] == 5000
    assert space["free"] > 0
    assert space["budget"] > 0
    assert space["recycled"] == 0


# Leases and orphans.


ORPHANS = """
from daskref.connectors.shm import *
connector = SharedMemoryConnector(**config)
keys = [connector.put(b"bytes") for _ in range(3)]
assert connector.renew(keys[2], 1000.0)
open(connector.directory + "/.w-" + keys[0].name, "w").close()
say([tuple(key) for key in keys])
sys.stdin.readline()
"""


def test_orphans_are_swept_after_the_grace(shm, child):
    process = child(ORPHANS, config=shm.config())
    known, orphan, leased = (SharedMemoryKey(*key) for key in eval(process.line()))
    ours = shm.put(b"ours")
    assert shm.sweep([known], 0.0) == []
    process.kill()
    assert shm.sweep() == []
    assert shm.sweep([known], 1000.0) == []
    # What came over the wire may be anything.
    assert shm.sweep([known, ("a", 1), ()], 0.0) == [orphan]
    assert [shm.exists(key) for key in (known, orphan, leased, ours)] == [
        *(True, False, True, True)
    ]
    assert not list(Path(shm.directory).glob(".w-*"))
    assert len(list(Path(shm.directory).glob("p-*"))) == 1


def test_a_lease_goes_with_its_object(shm):
    key = shm.put(b"bytes")
    assert shm.renew(key, 1000.0)
    linked = shm.link(key)
    shm.evict(key)
    assert not list(Path(shm.directory).glob("l-*"))
    assert not shm.renew(key, 1.0)
    assert shm.renew(linked, -1.0)
    Path(shm.directory, "l-" + key.name).write_text("0")
    assert shm.sweep([linked]) == []
    assert shm.sweep() == [linked]
    assert not list(Path(shm.directory).glob("l-*"))


# Crashes and forks.


def test_a_killed_session_is_swept_by_the_next(tmp_path, child):
    code = (
        "from daskref.connectors.shm import *\n"
        "connector = SharedMemoryConnector(root=root)\n"
        "key = connector.put(bytes(2**20))\nview = connector.get(key)\n"
        "say(connector.directory)\nsys.stdin.readline()"
    )
    dead, live = (child(code, root=str(tmp_path)) for _ in range(2))
    dead_path, live_path = (eval(process.line()) for process in (dead, live))
    dead.kill()
    with SharedMemoryConnector(root=tmp_path) as connector:
        assert not os.path.exists(dead_path)
        assert set(os.listdir(tmp_path)) == {
            os.path.basename(live_path),
            os.path.basename(connector.directory),
        }
    live.say()
    live.wait()
    assert not os.listdir(tmp_path)


FORK = """
import os
from daskref.connectors.shm import *
MIB = 2**20
connector = SharedMemoryConnector(root=root)
before = connector.put(b"\\x01" * 2 * MIB)
view = connector.get(before)
connector.evict(before)
answer = os.pipe()
pid = os.fork()
if not pid:
    assert connector.get(before) is None
    assert not connector._memory.kept.inodes()
    keys = [connector.put(bytes([i]) * 2 * MIB) for i in range(3)]
    assert view == b"\\x01" * 2 * MIB
    os.write(answer[1], repr([tuple(key) for key in keys]).encode())
    os._exit(0)
_, status = os.waitpid(pid, 0)
keys = [SharedMemoryKey(*key) for key in eval(os.read(answer[0], 10000))]
same = [connector.get(key) == bytes([i]) * 2 * MIB for i, key in enumerate(keys)]
say(status, same, keys[0].name[:8] != before.name[:8], view == b"\\x01" * 2 * MIB)
say(connector._session.gone(keys[0].name[:8]))
ours = connector.put(b"\\x05" * 2 * MIB)
say(connector.get(ours) == b"\\x05" * 2 * MIB)
connector.close()
"""


def test_a_forked_child_puts_and_gets(tmp_path, child):
    process = child(FORK, root=str(tmp_path))
    assert process.line() == "0 [True, True, True] True True"
    assert process.line() == "True"
    assert process.line() == "True"
    process.wait()
    assert not os.listdir(tmp_path)


def test_a_child_forked_while_locks_are_held(tmp_path, child):
    process = child(
        """
import os
from daskref.connectors.shm import *
connector = SharedMemoryConnector(root=root)
locks = [connector._lock, connector._session._mutex, connector._memory.kept._lock]
locks.append(connector._budget._lock)
for lock in locks:
    lock.acquire()
pid = os.fork()
if not pid:
    connector.put(bytes(2**21))
    connector.close()
    os._exit(0)
for lock in locks:
    lock.release()
say(os.waitpid(pid, 0)[1], connector.usage().objects)
connector.close()
""",
        root=str(tmp_path),
    )
    assert process.line() == "0 1"
    process.wait()
    assert not os.listdir(tmp_path)


def test_a_writer_killed_in_the_middle_leaves_nothing_to_read(shm, child):
    process = child(
        """
from daskref.connectors import parts
from daskref.connectors.shm import *
connector = SharedMemoryConnector(**config)
connector.evict(connector.put(bytes(2**22)))
real = parts.write_mapped
def half(mapping, fd, views, existing):
    real(mapping, fd, [view[: view.nbytes // 2] for view in views], existing)
    say("half")
    sys.stdin.readline()
parts.write_mapped = half
connector.put(bytes(2**22))
""",
        config=shm.config(),
    )
    assert process.line() == "'half'"
    assert len(list(Path(shm.directory).glob(".w-*"))) == 1
    process.kill()
    assert shm.usage() == (0, 0)
    assert shm.sweep([], 0.0) == []
    assert not list(Path(shm.directory).glob(".w-*"))


def test_closing_while_others_put(shm):
    errors = []
    started = threading.Barrier(5)

    def work():
        started.wait(20)
        try:
            while True:
                shm.evict(shm.put(fill(70_000)))
        except ConnectorClosedError:
            pass
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait(20)
    shm.close()
    for thread in threads:
        thread.join(20)
    assert [type(exc) for exc in errors if not isinstance(exc, ConnectorError)] == []


STRESS = """
import random
from daskref.connectors.shm import *
MIB = 2**20
rng = random.Random(seed)
connector = SharedMemoryConnector(**config)
held = []
for turn in range(turns):
    nbytes = rng.choice([70_000, 100_000, MIB, MIB + 4097, 3 * MIB])
    stamp = bytes([rng.randrange(256)])
    key = connector.put(stamp * nbytes)
    assert connector.get(key) == stamp * nbytes
    view = connector.get(key)  # maybe through the same mapping
    say(tuple(key), stamp)
    held.append((view, stamp))
    linked = connector.link(key) if rng.random() < 0.3 else None
    if linked is not None:
        connector.evict(linked)
    if rng.random() < 0.5:
        connector.evict(key)
    if len(held) > 6:
        view, stamp = held.pop(rng.randrange(len(held)))
        assert view == stamp * view.nbytes, (seed, turn)
connector.close()
say(None, None)
"""


@pytest.mark.stress
def test_readers_never_see_a_view_change(tmp_path, child):
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    with SharedMemoryConnector(
        spill_directory=tmp_path, recycle="40 MiB", budget="150 MiB"
    ) as connector:
        processes = [
            child(STRESS, config=connector.config(), seed=seed + n, turns=400)
            for n in range(3)
        ]
        held = []
        while processes:
            process = rng.choice(processes)
            key, stamp = eval(
                process.line().replace(") b", "), b").replace("e N", "e, N")
            )
            if key is None:
                process.wait()
                processes.remove(process)
                continue
            key = SharedMemoryKey(*key)
            view = connector.get(key)
            if view is not None and rng.random() < 0.5:
                assert view == stamp * view.nbytes
                del view
                view = connector.get(key)
            if view is not None:
                held.append((view, stamp))
            connector.evict(key)
            if len(held) > 10:
                view, stamp = held.pop(rng.randrange(len(held)))
                assert view == stamp * view.nbytes
        assert all(view == stamp * view.nbytes for view, stamp in held)
        assert connector.usage() == (0, 0)


def test_a_lock_is_not_taken_twice():
    fd = os.memfd_create("daskref-test")
    other = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        assert try_lock(fd, EXCLUSIVE)
        assert not try_lock(other, EXCLUSIVE)
    finally:
        os.close(fd)
        os.close(other)
