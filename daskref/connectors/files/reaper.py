"""A shell that removes a session whose processes were all killed.

A process that dies of a signal removes nothing, and Dask's workers die with the process
that started them. So a shell waits beside the session, outside of the process's group
and not its child; it takes no CPU time, and less than a megabyte. If the process ends
without dismissing the shell, the shell becomes a Python process that removes the
session as soon as its last participant has left.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress

logger = logging.getLogger(__name__)

_SHELL = "/bin/sh"
#: Descriptor 3 is at its end when the process with the writing end has died.
_WAIT = 'cd / && { read -r _ <&3 || [ ! -e "$1" ] || exec "$0" -P -c "$2" "$1"; } &'
_REMOVE = (
    "import sys; from daskref.connectors.shm.connector import remove_when_left; "
    "remove_when_left(sys.argv[1])"
)


class Reaper:
    """Wait for the end of this process, to remove a session of one host.

    *path*: the session's directory.

    Notes
    -----
    Without ``/bin/sh`` nothing waits, and the next process that starts a session
    sweeps. A signal to all processes of a container or batch job kills the shell as
    well. The first process of a container (PID 1) starts none: the shell would be its
    child.
    """

    def __init__(self, path: str) -> None:
        read, self._fd = os.pipe()
        quiet = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in range(3)]
        try:
            if os.getpid() == 1:
                return
            # what the program leaves to its own children, a lock or a pipe
            others = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited() if fd > 2]
            shell = os.posix_spawn(
                _SHELL,
                [_SHELL, "-c", _WAIT, sys.executable or "python3", path, _REMOVE],
                {**os.environ, "PYTHONPATH": _path()},
                file_actions=[*quiet, *others, (os.POSIX_SPAWN_DUP2, read, 3)],
                setsid=True,
                setsigmask=(),
            )
            os.waitpid(shell, 0)  # its child, the waiting shell, gets another parent
        except OSError:
            logger.debug("Nothing waits to remove %s", path, exc_info=True)
        finally:
            os.close(read)

    def dismiss(self) -> None:
        """End the shell: the session is removed."""
        with suppress(OSError):  # it has been killed
            os.write(self._fd, b"\n")
        self.forget()

    def forget(self) -> None:
        """Close the pipe, in a forked child."""
        os.close(self._fd)


def _path() -> str:
    # Python passes over whatever else users put there
    return os.pathsep.join(p for p in sys.path if isinstance(p, str) and p)


def _inherited() -> Iterator[int]:
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # closed since, by another thread or by listing them
            if os.get_inheritable(fd):
                yield fd
