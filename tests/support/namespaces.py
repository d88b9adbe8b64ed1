"""What tests need of namespaces; processes with a ``/dev/shm`` of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from daskref.testing.hosts import capabilities
from daskref.testing.processes import environment
from tests.support.requirements import require

#: Environment of programs that import the tests.
ENVIRONMENT = environment()


def own_shm(size: str = "50%") -> tuple[str, ...]:
    """Return what to put before a command, so that it has a ``/dev/shm`` of its own."""
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    return ("unshare", "-m", "sh", "-c", mount, "sh")


@cache
def _permitted() -> bool:
    try:
        done = subprocess.run([*own_shm("1m"), "true"], capture_output=True)
    except OSError:
        return False
    return not done.returncode


def require_namespaces() -> None:
    """Report as a missing part that mount namespaces cannot be made here."""
    require(_permitted(), "mount namespaces (unshare -m): run the tests as root")


class MemoryGroup:
    """A control group with a limit on memory, as containers have it; a context.

    Parameters
    ----------
    nbytes
        The limit.
    """

    def __init__(self, nbytes: int) -> None:
        self._root = Path("/sys/fs/cgroup/memory")
        names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
        self._events = "memory.oom_control"
        if not self._root.is_dir():
            self._root = Path("/sys/fs/cgroup")
            names = ["memory.max", "memory.swap.max"]
            self._events = "memory.events"
        self._path = self._root / f"daskref-test-{os.urandom(4).hex()}"
        try:
            self._path.mkdir()
        except OSError as exc:
            pytest.skip(f"a control group with a limit cannot be made: {exc}")
        try:
            (self._path / names[0]).write_text(str(nbytes))
            if (swap := self._path / names[1]).exists():
                swap.write_text("0" if "swap" in names[1] else str(nbytes))
        except OSError as exc:
            self._path.rmdir()
            pytest.skip(f"a control group cannot have a limit: {exc}")

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(self, *exc: object) -> None:
        begin = time.monotonic()
        while left := (self._path / "cgroup.procs").read_text().split():
            if time.monotonic() > begin + 5.0:  # they do not end by themselves
                for process in left:
                    with suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
            time.sleep(0.05)
        self._path.rmdir()

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command, so that it is inside and sees it as its own."""
        enter = f"echo $$ >{self._path}/cgroup.procs"
        mount = f"mount --bind {self._path} {self._root}"
        return ("unshare", "-m", "sh", "-c", f'{enter} && {mount} && exec "$@"', "sh")

    def kills(self) -> int:
        """Return how many processes the kernel has ended for lack of memory."""
        words = (self._path / self._events).read_text().split()
        return int(words[words.index("oom_kill") + 1])


def run_case(
    module: str,
    case: str,
    *args: Any,
    size: str = "50%",
    within: tuple[str, ...] = (),
) -> Any:
    """Run ``module.case(*args)`` in a process with its own ``/dev/shm``.

    Parameters
    ----------
    module, case
        Name of a module, and of a function in it.
    *args
        As JSON has them.
    size
        Of the file system.
    within
        What to put before the command.

    Returns
    -------
    object
        What the function returned, as JSON has it.
    """
    call = f"{module}.{case}(*json.loads({json.dumps(args)!r}))"
    code = f"import json, {module}; print('returned', json.dumps({call}))"
    done = subprocess.run(
        [*within, *own_shm(size), sys.executable, "-X", "faulthandler", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=100,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}"
    returned = [line for line in done.stdout.splitlines() if "returned " in line]
    assert returned, done.stdout
    return json.loads(returned[-1].partition("returned ")[2])


def require_hosts(*needs: str) -> None:
    """Report as a missing part that there can be no hosts, or none that can this.

    Parameters
    ----------
    *needs
        Names of fields of :class:`Capabilities`.
    """
    __tracebackhide__ = True
    found = capabilities()
    require(
        not found.reason,
        f"hosts in namespaces ({found.reason}): run as root, or permit user namespaces "
        "(kernel.unprivileged_userns_clone, user.max_user_namespaces); needs the "
        "packages iproute2 and util-linux",
    )
    for need in needs:
        require(
            getattr(found, need),
            f"hosts with {need}: the kernel lacks it, or a package is missing "
            "(iproute2, nftables)",
        )
