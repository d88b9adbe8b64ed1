"""A signal to a whole group of processes leaves nothing of the session behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskref
from tests.support.common import wait_until
from tests.support.namespaces import ENVIRONMENT

pytestmark = pytest.mark.slow

_DASK = (sys.executable, "-m", "dask")
_COMMON = ("--host", "127.0.0.1", "--no-dashboard")


class Group:
    """A scheduler, and workers with nannies, in a process group of their own."""

    def __init__(self, root: Path, spill: Path, log: Path) -> None:
        self._log = log
        self._env = {
            **os.environ,
            **ENVIRONMENT,
            "DASK_DASKREF__SHM__ROOT": str(root),
            "DASK_DASKREF__SPILL_DIRECTORY": str(spill),
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--port", "0", *_COMMON)
        self.id = self._started[0].pid
        self.address = wait_until(self._address, "the scheduler", 60)
        for _ in range(2):
            self._start("worker", self.address, "--nthreads", "1", *_COMMON)

    def _start(self, *args: str) -> None:
        group = self._started[0].pid if self._started else 0
        with self._log.open("ab") as log:
            command = [*_DASK, *args]
            popen = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._env, process_group=group
            )
        self._started.append(popen)

    def _address(self) -> str | None:
        found = re.search(r"Scheduler at:\s+(\w+://\S+)", self.log())
        return found and found[1]

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def members(self) -> list[int]:
        """Return the processes of the group that live."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                stat = Path("/proc", pid, "stat").read_text(errors="replace")
                state, _, group = stat.rpartition(")")[2].split()[:3]
                if int(group) == self.id and state != "Z":
                    found.append(int(pid))
        return found

    def end(self, signum: int) -> None:
        """Signal all at once, and wait for their end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.id, signum)
        for each in self._started:
            each.wait(60)
        wait_until(lambda: not self.members(), "the group's end")


@contextlib.contextmanager
def group(root: Path, spill: Path, log: Path) -> Iterator[Group]:
    started = Group(root, spill, log)
    try:
        yield started
    finally:
        started.end(signal.SIGKILL)


def use(client: Any) -> None:
    client.wait_for_workers(2, timeout=60)
    futures = client.map(np.full, [400_000] * 6, range(6), pure=False)
    assert len(client.gather(futures)) == 6
    assert client.submit(np.sum, np.ones(600_000)).result() == 600_000


def one_round(signum: int, path: Path, number: int) -> None:
    root, spill = path / f"shm-{number}", path / f"spill-{number}"
    root.mkdir()
    spill.mkdir()
    with group(root, spill, path / f"log-{number}") as started:
        with daskref.Client(started.address) as client:
            use(client)
        assert os.listdir(root)
        started.end(signum)
        assert not os.listdir(root), started.log()
        assert not os.listdir(spill), started.log()


def test_the_last_one_cleans_up(tmp_path: Path) -> None:
    # at SIGINT Dask's nannies wait eight seconds for their workers
    one_round(signal.SIGTERM, tmp_path, 0)


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_many_rounds(signum: int, tmp_path: Path) -> None:
    for number in range(10):
        one_round(signum, tmp_path, number)


def test_after_sigkill_the_session_is_removed(tmp_path: Path) -> None:
    root, spill = tmp_path / "shm", tmp_path / "spill"
    root.mkdir()
    spill.mkdir()
    with group(root, spill, tmp_path / "log") as started:
        with daskref.Client(started.address) as client:
            use(client)
        assert os.listdir(root)
        started.end(signal.SIGKILL)
        wait_until(lambda: not os.listdir(root), "the session is removed")
    assert not os.listdir(spill)


#: A program with a cluster of its own, which has stored something.
_PROGRAM = """
import time
import numpy as np
import daskref

if __name__ == "__main__":
    client = daskref.Client(n_workers=1, threads_per_worker=1, dashboard_address=":0")
    future = client.scatter(np.ones(600_000))
    print(client.submit(np.sum, future).result(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "signum", [signal.SIGKILL, signal.SIGTERM], ids=["KILL", "TERM"]
)
def test_a_program_with_a_cluster_of_its_own(signum: int, tmp_path: Path) -> None:
    root, program = tmp_path / "shm", tmp_path / "program.py"
    root.mkdir()
    program.write_text(_PROGRAM)
    env = {**os.environ, **ENVIRONMENT, "DASK_DASKREF__SHM__ROOT": str(root)}
    with subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "600000.0"
        assert os.listdir(root)
        process.send_signal(signum)
        process.wait()
        wait_until(lambda: not os.listdir(root), "the session is removed")
