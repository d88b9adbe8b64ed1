"""Processes that are killed, fork or close while others use shared memory."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from daskref.connectors import SharedMemoryConnector, SharedMemoryKey
from daskref.exceptions import ConnectorClosedError, ConnectorError
from tests.support.shm_files import fill

MIB = 2**20


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
    assert not connector.tiers.memory.kept.inodes()
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
tiers = connector.tiers
locks = [tiers._lock, connector._session._mutex, tiers.memory.kept._lock]
locks.append(tiers.budget._lock)
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
from daskref.connectors.files import parts
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
