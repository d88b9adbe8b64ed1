from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from daskref.connectors import SharedMemoryConnector, SharedMemoryKey
from daskref.connectors.files.locks import EXCLUSIVE, exclusively, try_lock
from daskref.exceptions import (
    ConfigError,
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)
from tests.support.shm_files import files, fill

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
    # threads of other tests may open or close some meanwhile
    assert len(os.listdir("/proc/self/fd")) < before + 100
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
    monkeypatch.setattr("daskref.connectors.files._mapping._map", fail)
    view = shm.get(key)
    assert view == fill(100_000)
    assert not view.readonly
    with exclusively(str(files(shm)[0])) as fd:
        assert fd is not None, "a copy needs no lock"


@pytest.mark.parametrize("nbytes", [100_000, 2**20 + 1])
def test_a_reader_of_many_objects_leaves_mappings_to_others(shm, child, nbytes):
    keys = [tuple(shm.put(fill(nbytes, i))) for i in range(20)]
    process = child(
        "from daskref.connectors.files import _mapping\n"
        "from daskref.connectors.shm import *\n"
        "_mapping._most_mappings = lambda: 12\n"
        "connector = SharedMemoryConnector(**config)\n"
        "views = [connector.get(SharedMemoryKey(*key)) for key in keys]\n"
        "say(len(_mapping._private))\n"
        "say(all(view[0] == i and not view.readonly for i, view in enumerate(views)))\n"
        "say(len(views))\n"
        "del views\n"
        "again = connector.get(SharedMemoryKey(*keys[0]))\n"
        "say(bool(_mapping._private))\n",
        config=shm.config(),
        keys=keys,
    )
    assert int(process.line()) in (6, 7)
    assert process.line() == "True"
    assert process.line() == "20"
    assert process.line() == "True"
    process.wait()


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


def test_a_lock_is_not_taken_twice():
    fd = os.memfd_create("daskref-test")
    other = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        assert try_lock(fd, EXCLUSIVE)
        assert not try_lock(other, EXCLUSIVE)
    finally:
        os.close(fd)
        os.close(other)
