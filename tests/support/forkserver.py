"""Schedulers and workers of the command line, forked off a process that has Dask.

Each that is started anew takes more than half a second of CPU to import it, and the
tests start hundreds. As Dask's own tests do with their workers, one process imports it,
once, and forks; it has neither threads nor anything of daskref's going on. What a
process is given that Dask reads when it is imported is left to a start as users have it
(:func:`can_fork`), and so are workers with a nanny.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

#: Variables that nothing reads before the fork.
_READ_LATE = ("DASK_DASKREF__", "DASKREF_", "AWS_", "PYTEST_")


def can_fork(args: tuple[str, ...], env: dict[str, str]) -> bool:
    """Tell whether a program of Dask's can be forked, by what it is to be given."""
    if {"--nanny", "--nworkers", "--preload"} & set(args):
        return False  # processes of its own; modules that are imported otherwise
    ours = _server().environment
    for name in ours.keys() | env.keys():
        if ours.get(name) == env.get(name) or name.startswith(_READ_LATE):
            continue
        if name != "PYTHONPATH" or not set(_paths(env)) <= set(sys.path):
            return False
    return True


def _paths(env: dict[str, str]) -> list[str]:
    return [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]


class Forked:
    """A forked process, as ``subprocess.Popen`` has it."""

    def __init__(self, args: tuple[str, ...], env: dict[str, str]) -> None:
        reader, writer = os.pipe()
        try:
            self._server = _server()
            self.args = args
            self.pid = self._server.fork(args, env, writer)
        finally:
            os.close(writer)
        self.returncode: int | None = None
        self.stdout = os.fdopen(reader, encoding="utf-8", errors="replace")

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.status(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """The process that forks, seen from the tests'."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.environment = dict(os.environ)
        self._socket = ours
        self._lock = threading.Lock()
        self._ended: dict[int, int] = {}
        self._buffer = b""
        self._popen = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        atexit.register(self.close)

    def close(self) -> None:
        self._socket.close()
        self._popen.wait(10)

    def fork(self, args: tuple[str, ...], env: dict[str, str], output: int) -> int:
        paths = [*_paths(env), *sys.path]
        request = json.dumps([args, env, list(dict.fromkeys(paths)), os.getcwd()])
        with self._lock:
            data = request.encode()
            head = len(data).to_bytes(4, "big")
            socket.send_fds(self._socket, [head], [output])
            self._socket.sendall(data)
            while True:
                kind, pid, status = self._read()
                if kind == "forked":
                    return pid
                self._ended[pid] = status

    def status(self, pid: int) -> int | None:
        with self._lock:
            while select.select([self._socket], [], [], 0)[0]:
                _, other, status = self._read()
                self._ended[other] = status
            return self._ended.get(pid)

    def _read(self) -> tuple[str, int, int]:
        while b"\n" not in self._buffer:
            data = self._socket.recv(4096)
            assert data, "the process that forks has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        kind, pid, status = json.loads(line)
        return kind, pid, status


@cache
def _server() -> _Server:
    return _Server()


# In the process that forks.


def serve(fd: int) -> None:
    """Fork for each request; returns in each forked process, with what it is to do."""
    requests = socket.socket(fileno=fd)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        for pid, status in _ended():
            requests.sendall(f'["ended", {pid}, {status}]\n'.encode())
        if requests not in ready:
            continue
        head, outputs, _, _ = socket.recv_fds(requests, 4, 1)
        if not head:  # the tests have ended
            os._exit(0)
        (output,) = outputs
        data = b""
        while len(data) < int.from_bytes(head, "big"):
            data += requests.recv(int.from_bytes(head, "big") - len(data))
        if pid := os.fork():
            os.close(output)
            requests.sendall(f'["forked", {pid}, 0]\n'.encode())
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (woken, wake):
            os.close(each)
        requests.close()
        _become(output, *json.loads(data))
        return


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _become(
    output: int, args: list[str], env: dict[str, str], paths: list[str], cwd: str
) -> None:
    import dask

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with its parent, as all of a test's
    for fd in (1, 2):
        os.dup2(output, fd)
    os.close(output)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = ["", *paths]
    sys.argv = ["dask", *args]
    dask.config.refresh()


def main() -> None:
    """Import what a scheduler and a worker need, and run one in each forked process."""
    sys.path[0] = ""  # not this file's directory
    import distributed.cli.dask_scheduler
    import distributed.cli.dask_worker  # noqa: F401
    from dask.__main__ import main as program

    gc.freeze()  # or each forked process would copy all pages to look for garbage
    serve(int(sys.argv[1]))
    program()


def fork(*command: str, env: dict[str, str]) -> Any:
    """Return a process of ``python -m dask …``; None if it must be started anew."""
    args = command[3:]
    if command[:3] != (sys.executable, "-m", "dask") or not can_fork(args, env):
        return None
    return Forked(args, env)


if __name__ == "__main__":
    main()
