"""Shared helpers of the tests: waiting, processes of a cluster, sizes."""

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
from typing import Any

import numpy as np

#: Values of this size in bytes go by reference under the default threshold.
LARGE = 2 << 20


def large(fill: float = 1.0, nbytes: int = LARGE) -> Any:
    """Return an array that goes by reference."""
    return np.full(nbytes // 8, fill)


def wait_until(
    condition: Callable[[], Any], what: str = "the condition", timeout: float = 20
) -> Any:
    """Wait until a condition is true and return its value; fail at the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s, last {value!r}")
        time.sleep(0.01)


class Process:
    """A process of a cluster, started apart from this one."""

    def __init__(self, popen: subprocess.Popen[str], address: str) -> None:
        self.popen = popen
        self.address = address

    @property
    def pid(self) -> int:
        return self.popen.pid

    def kill(self) -> None:
        """SIGKILL the process and its children, by their ids."""
        for pid in [*children(self.pid), self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
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


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG: a test run that is killed leaves no cluster behind
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def start(
    *command: str,
    pattern: str,
    env: dict[str, str] | None = None,
    timeout: float = 60,
    stdin: int | None = None,
) -> Process:
    """Start a process and wait until its output matches a pattern with one group."""
    popen = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
        preexec_fn=_die_with_parent,
    )
    found: queue.Queue[str | None] = queue.Queue()
    output: list[str] = []
    popen.output = output  # type: ignore[attr-defined]

    def read() -> None:
        assert popen.stdout is not None
        with contextlib.suppress(ValueError):  # closed meanwhile
            for line in popen.stdout:  # to the end, or the process would stop
                output.append(line)
                if match := re.search(pattern, line):
                    found.put(match.group(1))
        found.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with contextlib.suppress(queue.Empty):
        if (address := found.get(timeout=timeout)) is not None:
            return Process(popen, address)
    failed = Process(popen, "")
    failed.kill()
    reader.join(10)
    failed.stop()
    raise AssertionError(f"{command} did not start:\n{''.join(output)}")


DASK = (sys.executable, "-m", "dask")


def start_scheduler(
    *args: str,
    env: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    host: str = "127.0.0.1",
) -> Process:
    """Start ``dask scheduler``, on loopback unless told otherwise."""
    return start(
        *prefix, *DASK, "scheduler", "--host", host, "--port", "0", "--no-dashboard",
        *args, pattern=r"Scheduler at:\s+(\w+://\S+)", env=env,
    )  # fmt: skip


def start_worker(
    scheduler: str,
    *args: str,
    env: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    host: str = "127.0.0.1",
) -> Process:
    """Start ``dask worker``, on loopback and without a nanny unless told otherwise."""
    return start(
        *prefix, *DASK, "worker", scheduler, "--host", host, "--nthreads", "1",
        "--no-dashboard", *(args or ("--no-nanny",)),
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


def status_kib(pid: int, field: str) -> int:
    """Return a field of ``/proc/<pid>/status`` in KiB, such as ``VmRSS``."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    raise KeyError(field)


def pss_kib(pid: int) -> int:
    """Return the proportional set size of a process in KiB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    raise KeyError("Pss")
