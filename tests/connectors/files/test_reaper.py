"""The session of processes that were all killed is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daskref.connectors import SharedMemoryConnector
from tests.support.common import wait_until
from tests.support.forks import forked

#: Makes a session that has 1 MB in memory and on disk, and waits to be killed.
PROGRAM = """
import sys, time
from daskref.connectors import SharedMemoryConnector

root, spill = sys.argv[1:]
connector = SharedMemoryConnector(root=root, budget="1 MB", spill_directory=spill)
connector.outlive()
connector.put_batch([bytes(500_000)] * 4)
print(connector.directory, flush=True)
time.sleep(600)
"""


def waiting(path: str) -> list[str]:
    """Return the processes that wait to remove a session."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path("/proc", pid, "cmdline").read_text().split("\0")
        except OSError:  # it has just ended
            continue
        if path in arguments:
            found.append(pid)
    return found


@pytest.fixture
def spill(tmp_path: Path) -> Path:
    directory = tmp_path / "spill"
    directory.mkdir()
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_session_of_a_killed_process(
    number: signal.Signals, tmp_path: Path, spill: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, root, spill], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        with SharedMemoryConnector(path) as other:  # as a worker that lives on
            assert list(spill.iterdir())
            process.send_signal(number)
            process.wait()
            wait_until(lambda: len(waiting(path)) == 1, "it waits for the other")
            other.put(b"x")
            assert os.path.lexists(path)
        wait_until(lambda: not list(root.iterdir()), "the session is removed")
    wait_until(lambda: not list(spill.iterdir()), "and what it had on disk")
    wait_until(lambda: not waiting(path), "nothing waits any more")


def test_nothing_waits_for_a_session_that_was_removed(tmp_path: Path) -> None:
    connector = SharedMemoryConnector(root=tmp_path)
    connector.outlive()
    connector.outlive()
    path = connector.directory
    wait_until(lambda: len(waiting(path)) == 1, "one waits")
    assert forked(lambda: True) == "fine"
    assert len(waiting(path)) == 1
    connector.close()
    wait_until(lambda: not waiting(path), "dismissed")


def test_who_joins_needs_nobody_to_wait(tmp_path: Path) -> None:
    with (
        SharedMemoryConnector(root=tmp_path) as connector,
        SharedMemoryConnector(connector.directory) as other,
    ):
        other.outlive()
        assert not waiting(connector.directory)


def test_it_is_no_child_of_the_process(tmp_path: Path) -> None:
    with SharedMemoryConnector(root=tmp_path) as connector:
        connector.outlive()
        (pid,) = waiting(connector.directory)
        stat = Path("/proc", pid, "stat").read_text()
        parent, group = stat.rpartition(")")[2].split()[1:3]
        assert int(parent) != os.getpid()
        assert int(group) != os.getpgrp()


def test_it_has_nothing_of_what_the_program_leaves_to_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path, None])
    read, write = os.pipe()
    os.set_inheritable(write, True)
    with os.fdopen(read) as _, SharedMemoryConnector(root=tmp_path) as connector:
        connector.outlive()
        os.close(write)
        (pid,) = waiting(connector.directory)
        links = {os.readlink(each) for each in Path("/proc", pid, "fd").iterdir()}
        (pipe,) = links - {os.devnull}
        assert pipe != os.readlink(f"/proc/self/fd/{read}")


def test_the_first_process_of_a_container_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with SharedMemoryConnector(root=tmp_path) as connector:
        connector.outlive()
        assert not waiting(connector.directory)
