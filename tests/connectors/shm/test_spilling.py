"""The budget of shared memory, and what goes to disk."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daskref.connectors import SharedMemoryConnector, SharedMemoryKey
from daskref.connectors.files.locks import exclusively
from daskref.exceptions import ConnectorError
from tests.support.shm_files import fill, pooled

MIB = 2**20


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
    assert re.fullmatch(
        rf"daskref-{os.geteuid()}-[0-9a-f]{{32}}\.spill", directory.name
    )
    assert (connector.session.path.rpartition("-")[2]) not in directory.name
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
    left = SharedMemoryConnector.sweep_sessions(root, spill, remove=False)
    assert all(map(os.path.exists, left))
    removed = SharedMemoryConnector.sweep_sessions(root, spill)
    assert len(removed) == 2
    assert removed == left
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

    parts = shm.tiers.memory.parts
    real = parts.write
    monkeypatch.setattr(parts, "write", full)
    value = fill(100_000)
    key = shm.put(value)
    assert shm.get(key) == value
    assert not Path(shm.directory, key.name).exists()
    monkeypatch.setattr("daskref.connectors.files.parts.write_file", full)
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
from daskref.connectors.files import parts
from daskref.connectors.shm import connector as shm
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", root], check=True)
MIB = 2**20
parts.can_populate = lambda: populate
with shm.SharedMemoryConnector(root=root, spill_directory=spill, budget=1.0) as c:
    if lies:
        # as when another process fills it meanwhile
        c.tiers.room = lambda nbytes: True
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
    c.tiers.spill._objects = None
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
