"""SIGKILL of anything at any moment: the next start clears up, and only the dead."""

from __future__ import annotations

import itertools
import json
import os
import queue
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskref
from daskref.connectors import SharedMemoryConnector
from tests.support.common import (
    DASK,
    Process,
    start_scheduler,
    start_worker,
    wait_until,
)
from tests.support.namespaces import ENVIRONMENT

pytestmark = pytest.mark.slow

#: Rounds; more of them in `make stress`.
ROUNDS = [4, pytest.param(20, marks=pytest.mark.stress)]


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory in shared memory for these tests' sessions: nobody else sweeps it."""
    path = Path(tempfile.mkdtemp(prefix="crash-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    """What all processes of a cluster run with: objects in memory and on disk."""
    (tmp_path / "spill").mkdir()
    return {
        **ENVIRONMENT,
        "DASK_DASKREF__SHM__ROOT": str(root),
        "DASK_DASKREF__SPILL_DIRECTORY": str(tmp_path / "spill"),
        "DASK_DASKREF__SHM__BUDGET": "8 MiB",
        "DASK_DASKREF__THRESHOLD": "100 kB",
        "DASK_TEMPORARY_DIRECTORY": str(tmp_path),
    }


def entries(*directories: Path) -> set[Path]:
    return {path for directory in directories for path in directory.iterdir()}


def sessions(paths: set[Path]) -> set[str]:
    """Return the ids of the sessions that these files belong to."""
    names = {p.name if ".spill" not in p.name else _session_of(p) for p in paths}
    found = {re.fullmatch(r"\.?daskref-\d+-([0-9a-f]+).*", name) for name in names}
    assert None not in found, paths
    return {match[1] for match in found if match}


def _session_of(path: Path) -> str:
    """Return the name of the session that spills there; its own if that is gone."""
    with suppress(OSError, ValueError):
        return Path(json.loads((path / "identity").read_bytes())["session"]).name
    return path.name


# Clusters that are killed.


def total(x: Any) -> float:
    return float(x.sum())


def work(address: str, seed: int, mode: str) -> None:
    """Run a client that puts, gets and lets go, without end, or then does nothing."""
    rng = random.Random(seed)
    held: deque[Any] = deque(maxlen=10)
    with daskref.Client(address, timeout=30) as client:
        for tick in itertools.count():
            x = np.full(rng.randrange(25_000, 400_000), float(tick))
            action = rng.choice(["submit", "scatter", "result"])
            if action == "submit":
                held.append((x, client.submit(total, x)))
            elif action == "scatter":
                held.append(client.scatter(x))
            else:
                held.append(client.submit(np.full, x.size, 1.0, pure=False))
                assert total(held[-1].result()) == x.size
            print("tick", tick, flush=True)
            if mode == "idle" and tick == 8:
                threading.Event().wait()


class Victims:
    """A scheduler, two workers and a client, all started at once, to be killed."""

    def __init__(self, environment: dict[str, str], seed: int, mode: str) -> None:
        self._environment = environment
        self._ticks: queue.Queue[str] = queue.Queue()
        self._lines: list[str] = []
        self.processes: dict[str, subprocess.Popen[str]] = {}
        scheduler = start_scheduler(env=environment)
        self.processes["scheduler"] = scheduler.popen
        for name in ("worker 1", "worker 2"):
            self._start(
                name, *DASK, "worker", scheduler.address, "--host", "127.0.0.1",
                "--nthreads", "1", "--no-dashboard", "--no-nanny",
            )  # fmt: skip
        code = "from tests.integration.test_crashes import *; "
        code += f"work({scheduler.address!r}, {seed}, {mode!r})"
        self._start("client", sys.executable, "-c", code)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _start(self, name: str, *command: str) -> None:
        self.processes[name] = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if name == "client" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if name == "client" else subprocess.DEVNULL,
            text=True,
            env={**os.environ, **self._environment},
        )

    def _read(self) -> None:
        stdout = self.processes["client"].stdout
        assert stdout is not None
        for line in stdout:
            self._lines.append(line)
            if line.startswith("tick"):
                self._ticks.put(line)

    def wait_for(self, ticks: int) -> None:
        for _ in range(ticks):
            try:
                self._ticks.get(timeout=30)
            except queue.Empty:
                raise AssertionError("".join(self._lines)) from None

    def kill(self, names: list[str]) -> None:
        for name in names:
            self.processes[name].kill()
        for name in names:
            self.processes[name].wait(10)

    def close(self) -> None:
        self.kill(list(self.processes))
        self._reader.join(10)
        for popen in self.processes.values():
            if popen.stdout is not None:
                popen.stdout.close()


FIRST = [
    ["client"],
    ["scheduler"],
    ["worker 1"],
    ["worker 1", "worker 2"],
    ["client", "scheduler"],
    ["scheduler", "worker 2"],
    ["client", "worker 1", "worker 2"],
    ["scheduler", "worker 1", "worker 2"],
    ["client", "scheduler", "worker 1", "worker 2"],
]


class Bystander:
    """A session that lives through all of it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._processes: list[Process] = []
        self._processes.append(start_scheduler(env=environment))
        address = self._processes[0].address
        self._processes.append(start_worker(address, env=environment))
        self.client = daskref.Client(address)
        self._values = [np.full(200_000, float(i)) for i in range(10)]
        self._futures = self.client.scatter(self._values)
        self._directories = [
            Path(environment["DASK_DASKREF__SHM__ROOT"]),
            Path(environment["DASK_DASKREF__SPILL_DIRECTORY"]),
        ]
        self.sessions = sessions(entries(*self._directories))
        assert len(self.sessions) == 1
        self._objects = self._look()
        assert {path.parent.parent for path in self._objects} == {*self._directories}
        assert len(self._objects) >= 10

    def _look(self) -> dict[Path, tuple[int, int, int]]:
        found = {}
        for path in entries(*self._directories):
            if sessions({path}) == self.sessions:
                for file in path.iterdir():
                    if re.fullmatch("[0-9a-f]{8}-[0-9a-f]{24}", file.name):
                        with suppress(FileNotFoundError):
                            there = file.stat()
                            found[file] = there.st_ino, there.st_size, there.st_mtime_ns
        return found

    def check(self, rng: random.Random) -> None:
        # what was read a moment ago has a second name for as long as it lives, and then
        # until somebody comes round to deleting it
        wait_until(lambda: self._look() == self._objects)
        i = rng.randrange(len(self._values))
        seen = self.client.submit(total, self._futures[i], pure=False)
        assert seen.result(30) == self._values[i].sum()
        np.testing.assert_array_equal(self._futures[i].result(), self._values[i])

    def close(self) -> None:
        self.client.close()
        for process in reversed(self._processes):
            process.stop()


@pytest.mark.parametrize("rounds", ROUNDS)
def test_rounds_of_sigkill(
    rounds: int, environment: dict[str, str], root: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("DASKREF_SEED", secrets.randbelow(2**32)))
    print("DASKREF_SEED =", seed)  # shown if the test fails
    rng = random.Random(seed)
    directories = root, tmp_path / "spill"
    bystander = Bystander(environment)
    dead: set[str] = set()
    spilled = left = 0
    try:
        for _ in range(rounds):
            mode = rng.choice(["putting", "putting", "idle"])
            victims = Victims(environment, rng.randrange(2**32), mode)
            try:
                victims.wait_for(rng.randrange(2, 9))
                # the session is there, so those before it are not
                there = sessions(entries(*directories))
                assert not dead & there, (mode, dead & there)
                assert len(there) == 2
                threading.Event().wait(rng.uniform(0, 0.1))
                victims.kill(rng.choice(FIRST))
                threading.Event().wait(rng.uniform(0, 0.2))
            finally:
                victims.close()
            now = sessions(entries(*directories)) - bystander.sessions
            left += bool(now)
            spilled += bool(sessions(entries(tmp_path / "spill")) - bystander.sessions)
            dead |= there | now
            dead -= bystander.sessions
            bystander.check(rng)
        with SharedMemoryConnector(root=root, spill_directory=tmp_path / "spill"):
            assert not dead & sessions(entries(*directories))
        bystander.check(rng)
        # or this would have tested nothing
        assert left
        if rounds >= 20:
            assert left > rounds / 4
            assert spilled
    finally:
        bystander.close()
    assert entries(*directories) == set()


# Every single step.

#: Functions of ``os`` that change a file system.
STEPS = (
    "mkdir", "rename", "unlink", "rmdir", "link", "open", "write", "pwritev",
    "ftruncate", "close",
)  # fmt: skip


def die_at(step: int) -> None:
    """Let this process be killed just before one of its steps."""
    count = itertools.count()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(count) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def use(root: str, spill: str) -> None:
    """Do all that a session does."""
    options = {"root": root, "spill_directory": spill, "budget": "400 kB"}
    with SharedMemoryConnector(**options) as connector:
        small, large = b"s" * 1000, b"l" * 300_000
        keys = [connector.put(data) for data in (small, large, large)]
        assert [bytes(connector.get(key)) for key in keys] == [small, large, large]
        connector.renew(keys[0], 60)
        other = SharedMemoryConnector(**connector.config())
        keys.append(other.link(keys[1]))
        connector.evict(keys[1])
        other.evict(keys[3])
        keys.append(other.put(large))  # into recycled pages
        other.close()
        connector.sweep([], 0)
        connector.put(large)


def sweep(root: str, spill: str) -> None:
    """Start, after all others have died."""
    with SharedMemoryConnector(root=root, spill_directory=spill):
        pass


def fill(root: str, spill: str) -> None:
    """Leave something of everything."""
    connector = SharedMemoryConnector(
        root=root, spill_directory=spill, budget="1 MB", recycle="500 kB"
    )
    keys = [connector.put(b"x" * 300_000) for _ in range(6)]
    connector.evict(keys[0])
    connector.renew(keys[1], 60)
    os.kill(os.getpid(), signal.SIGKILL)


def die_everywhere(root: str, spill: str, doing: str) -> None:
    """Run in a process of one thread: fork for each step, and look what is left."""
    left = {}
    for step in itertools.count():
        if doing == "sweep":
            child = os.fork()
            if not child:
                fill(root, spill)
            os.waitpid(child, 0)
            assert os.listdir(root)
            assert os.listdir(spill)
        child = os.fork()
        if not child:
            die_at(step)
            (sweep if doing == "sweep" else use)(root, spill)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert not status
            break
        dead = os.listdir(root) + os.listdir(spill)
        sweep(root, spill)
        found = [
            [path, names]
            for directory in (root, spill)
            for path, _, names in os.walk(directory)
            if path != directory or names
        ]
        if found:
            left[step] = [dead, found]
            for directory in (root, spill):
                for name in os.listdir(directory):
                    shutil.rmtree(os.path.join(directory, name))
    print("told", json.dumps([step, left]))


@pytest.mark.parametrize("doing", ["use", "sweep"])
def test_sigkill_before_every_step(root: Path, tmp_path: Path, doing: str) -> None:
    arguments = f"{str(root)!r}, {str(tmp_path)!r}, {doing!r}"
    code = f"from tests.integration.test_crashes import *; die_everywhere({arguments})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=100,
    )
    assert done.returncode == 0
    steps, left = json.loads(done.stdout.rpartition("told ")[2])
    assert steps > 20
    assert not left, json.dumps(left, indent=1)


def test_a_half_written_object_of_a_killed_worker_is_removed(
    environment: dict[str, str], root: Path
) -> None:
    environment |= {
        "DASK_DASKREF__RECONCILE_INTERVAL": "100ms",
        "DASK_DASKREF__RECONCILE_GRACE": "100ms",
    }
    scheduler = start_scheduler(env=environment)
    workers = [start_worker(scheduler.address, env=environment) for _ in range(2)]
    try:
        with daskref.Client(scheduler.address) as client:
            x = np.ones(100_000)
            future = client.submit(total, x)
            assert future.result() == x.size
            (session,) = root.iterdir()
            before = {path.name for path in session.iterdir() if len(path.name) == 33}
            first, _ = client.scheduler_info()["workers"]
            client.run(die_in_the_middle_of_a_put, workers=[first])
            made = client.submit(
                np.full, 200_000, 2.0, workers=[first], allow_other_workers=True
            )
            # recomputed by the other one
            assert total(made.result(30)) == 400_000
            assert client.submit(total, x, pure=False).result() == x.size

            def objects() -> set[str]:
                return {
                    path.name for path in session.iterdir() if len(path.name) > 32
                } - before

            wait_until(lambda: len(objects()) == 1, "only the result is left")
            assert total(made.result(30)) == 400_000
    finally:
        for process in [*workers, scheduler]:
            process.stop()


def die_in_the_middle_of_a_put() -> None:
    from daskref.connectors.files import parts

    def die(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    parts.write_file = parts.write_mapped = die  # type: ignore[assignment]
