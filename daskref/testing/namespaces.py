"""Linux namespaces, held by one process each, which ends when its owner does."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence

from daskref.exceptions import NamespaceError
from daskref.testing.processes import children, wait_or_kill

#: Seconds for a keeper to be ready, a command to be done, or processes to be gone.
PATIENCE = 20.0

#: The end of the first process's script: wait until standard input ends. With SIGCHLD
#: ignored, the kernel reaps orphans.
_KEEP = "trap '' CHLD; echo ready; exec cat >/dev/null"


class Keeper:
    """Namespaces of the network, mounts, processes and the host name, held open.

    Raises NamespaceError with the system's message.

    Parameters
    ----------
    script
        Shell script for the first process inside. A failing command ends everything.
    prefix
        Beginning of the command, to start from within other namespaces.
    user
        Whether to make a user namespace too, in which the caller is root.

    Notes
    -----
    The first process ends when its standard input does: when this process closes it, or
    dies in whatever way. The kernel then kills every process within, also in process
    namespaces nested in this one, and removes their mounts and links.
    """

    #: Of the first process, as this process sees it.
    pid: int
    user: bool

    def __init__(
        self, script: str, *args: str, prefix: Sequence[str] = (), user: bool = False
    ) -> None:
        self.user = user
        flags = ["--mount", "--net", "--uts", "--pid", "--fork", "--mount-proc"]
        if user:
            flags += ["--user", "--map-root-user"]
        command = [
            *prefix, "unshare", *flags, "sh", "-ec", f"{script}\n{_KEEP}", "sh", *args,
        ]  # fmt: skip
        try:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as exc:
            raise NamespaceError(f"{command[0]}: {exc.strerror}") from exc
        self.pid = self._popen.pid
        try:
            self._wait_until_ready()
            # sh is the last of a chain of one child each
            self.pid = children(self._popen.pid)[0]
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        assert self._popen.stdout is not None
        deadline = time.monotonic() + PATIENCE
        output = b""
        while not output.endswith(b"ready\n"):
            left = max(0, deadline - time.monotonic())
            if not select.select([self._popen.stdout], [], [], left)[0]:
                raise NamespaceError(f"not ready in {PATIENCE} s: {output.decode()}")
            read = os.read(self._popen.stdout.fileno(), 4096)
            if not read:
                raise NamespaceError(output.decode().strip() or "unshare failed")
            output += read

    def entering(self, *kinds: str) -> tuple[str, ...]:
        """Return the beginning of a command that runs in some of the namespaces.

        *kinds*: of ``mount``, ``net``, ``uts``, ``pid``.
        """
        user = ("--user", "--preserve-credentials") if self.user else ()
        return (
            "nsenter", "--target", str(self.pid), *user,
            *(f"--{kind}" for kind in kinds), "--",
        )  # fmt: skip

    @property
    def alive(self) -> bool:
        """Whether the namespaces are held."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """End every process within at once, as a loss of power does."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """End every process within, and wait for it. Idempotent."""
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            stream.close()
        wait_or_kill(self._popen, PATIENCE)


def execute(prefix: Sequence[str], *command: str, stdin: str | None = None) -> str:
    """Run a command to its end and return its output.

    Raises NamespaceError if it fails, or is not installed.
    """
    try:
        done = subprocess.run(
            [*prefix, *command],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
    except OSError as exc:
        raise NamespaceError(f"{command[0]}: {exc.strerror}") from exc
    if done.returncode:
        raise NamespaceError(f"{' '.join(command)}: {done.stdout.strip()}")
    return done.stdout


def temporary() -> str:
    """Return the directory of temporary files; each host has its own."""
    return os.path.realpath(tempfile.gettempdir())


#: Script that gives a host a name, a boot and machine id, file systems and a resolver
#: of its own. Arguments: host name, boot id, address, size of /dev/shm ("" to share it
#: and the temporary files), the directory of these, directories in it that are shared.
HOST = """
name=$1 boot=$2 address=$3 size=$4 tmp=$5; shift 5
hostname "$name"
if [ -n "$size" ]; then
  mount -t tmpfs -o "size=$size,mode=1777" tmpfs /dev/shm
  mkdir /dev/shm/.outside
  mount --rbind "$tmp" /dev/shm/.outside
  mount -t tmpfs -o mode=1777 tmpfs "$tmp"
  for path in "$@"; do
    mkdir -p "$path"
    mount --rbind "/dev/shm/.outside${path#"$tmp"}" "$path"
  done
  umount -l /dev/shm/.outside
  rmdir /dev/shm/.outside
fi
own() {
  file=$(mktemp)
  cat >"$file"
  # nothing can be mounted on top of a neighbour's file, which is unlinked
  umount "$1" 2>/dev/null || true
  mount --bind "$file" "$1"
  rm "$file"
}
echo "$boot" | own /proc/sys/kernel/random/boot_id
if [ -e /etc/machine-id ]; then
  echo "$boot" | tr -d - | own /etc/machine-id
fi
printf '127.0.0.1 localhost\\n::1 localhost\\n%s %s\\n' "$address" "$name" |
  own /etc/hosts
own /etc/resolv.conf </dev/null
"""
