"""Processes of a cluster, started apart from this process, which they end with."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Directory from which the package is imported.
ROOT = Path(__file__).parents[2]


def import_paths() -> list[str]:
    """Return the directories that this process imports from, except Python's own."""
    own = {Path(sys.prefix), Path(sys.base_prefix)}
    found = [str(ROOT), *sys.path]
    return [
        path
        for path in dict.fromkeys(map(os.path.abspath, found))
        if os.path.isdir(path) and not own & set(Path(path).parents)
    ]


def environment() -> dict[str, str]:
    """Return variables with which a program imports the modules of this process."""
    return {"PYTHONPATH": os.pathsep.join(import_paths())}


def wait_until(
    condition: Callable[[], Any], what: str = "the condition", timeout: float = 20
) -> Any:
    """Wait until ``condition()`` is true and return its value.

    Raises AssertionError, which names *what*, at the deadline. Calls the condition
    every few milliseconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s, last {value!r}")
        time.sleep(0.01)


class Process:
    """A process of a cluster.

    Parameters
    ----------
    address
        The address that it printed.
    lines
        Its output, which grows.
    """

    def __init__(
        self, popen: subprocess.Popen[str], address: str, lines: list[str] | None = None
    ) -> None:
        self.popen = popen
        self.address = address
        self.lines = [] if lines is None else lines

    @property
    def pid(self) -> int:
        """Its id."""
        return self.popen.pid

    def kill(self) -> None:
        """SIGKILL the process and its children, by their ids."""
        kill_all(self.pid)
        self.popen.wait(10)

    def stop(self) -> None:
        """End the process as a user would, within a bound."""
        if self.popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGINT)
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


def children(pid: int) -> list[int]:
    """Return the ids of all descendants of a process."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    found += [*children(child), child]
    return found


def kill_all(pid: int) -> None:
    """SIGKILL a process and its descendants, by their ids."""
    for each in [*children(pid), pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def wait_or_kill(popen: subprocess.Popen[Any], seconds: float) -> None:
    """Wait for a process that is to end; kill it and its descendants if it does not."""
    try:
        popen.wait(seconds)
    except subprocess.TimeoutExpired:
        kill_all(popen.pid)
        popen.wait(seconds)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent's thread ends (prctl)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def spawn(
    command: tuple[str, ...], env: dict[str, str], stdin: int | None
) -> subprocess.Popen[str]:
    """Start a process whose output, errors included, can be read."""
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        # a run that is killed leaves no cluster behind
        preexec_fn=die_with_parent,
    )


def start(
    *command: str,
    pattern: str,
    env: dict[str, str] | None = None,
    timeout: float = 60,
    stdin: int | None = None,
) -> Process:
    """Start a process and wait until its output matches a pattern with one group.

    Raises AssertionError, with the output, if the process ends, or does not match in
    time.

    Parameters
    ----------
    pattern
        Its first group matches the process's address.
    env
        On top of this process's environment.
    stdin
        As ``subprocess`` has it.
    """
    popen = spawn(command, {**os.environ, **(env or {})}, stdin)
    found: queue.Queue[str | None] = queue.Queue()
    lines: list[str] = []

    def read() -> None:
        assert popen.stdout is not None
        with contextlib.suppress(ValueError):  # closed meanwhile
            for line in popen.stdout:  # to the end, or the process would stop
                lines.append(line)
                if match := re.search(pattern, line):
                    found.put(match.group(1))
        found.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with contextlib.suppress(queue.Empty):
        if (address := found.get(timeout=timeout)) is not None:
            return Process(popen, address, lines)
    failed = Process(popen, "")
    failed.kill()
    reader.join(10)
    failed.stop()
    raise AssertionError(f"{command} did not start:\n{''.join(lines)}")


DASK = (sys.executable, "-m", "dask")


def start_scheduler(
    *args: str,
    env: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    python: str = sys.executable,
) -> Process:
    """Start ``dask scheduler``, on loopback by default."""
    return start(
        *prefix, python, "-m", "dask", "scheduler", "--host", host, "--port", "0",
        "--no-dashboard", *args, pattern=r"Scheduler at:\s+(\w+://\S+)", env=env,
    )  # fmt: skip


def start_worker(
    scheduler: str,
    *args: str,
    env: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    python: str = sys.executable,
) -> Process:
    """Start ``dask worker``, without a nanny by default, on loopback by default."""
    return start(
        *prefix, python, "-m", "dask", "worker", scheduler, "--host", host,
        "--nthreads", "1", "--no-dashboard", *(args or ("--no-nanny",)),
        pattern=r"Starting established connection to (\w+://\S+)", env=env,
    )  # fmt: skip


@contextlib.contextmanager
def processes(
    workers: int = 2, *, env: dict[str, str] | None = None, args: tuple[str, ...] = ()
) -> Iterator[tuple[Process, list[Process]]]:
    """Run a scheduler and workers, each a process of its own."""
    scheduler = start_scheduler(env=env)
    started = []
    try:
        for _ in range(workers):
            started.append(start_worker(scheduler.address, *args, env=env))
        yield scheduler, started
    finally:
        for process in [*started, scheduler]:
            process.stop()
