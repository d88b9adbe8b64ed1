"""How the processes of a session tell which participants are alive.

Each participant has a presence file, locked while its process lives. On one host the
lock is sufficient (:class:`OneHost`). Where hosts share a directory, locks may be
missing, or be lost when a server restarts (:class:`ManyHosts`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

from daskref.annotations import override
from daskref.connectors.files.folders import (
    hide,
    is_hidden,
    is_older,
    read_identity,
    read_own,
    remove_whole,
    removing,
)
from daskref.connectors.files.locks import (
    EXCLUSIVE,
    SHARED,
    names,
    open_plain,
    try_lock,
    unlock,
)
from daskref.connectors.filesystems import is_local
from daskref.connectors.processes import (
    has_ended,
    host,
    load_record,
    machine,
    this_process,
)

_PRESENCE = re.compile("p-([0-9a-f]{8})")


class Liveness(Protocol):
    """Tells which participants of a session's directory are alive."""

    #: The file that is removed last, because it identifies the directory.
    last: str
    #: Whether all participants are on this host. Then a process that ends sweeps for
    #: its child processes.
    one_host: bool

    def identity(self) -> dict[str, str]:
        """Return what the identity file of a new session contains besides the nonce."""

    def hold(self, path: str, new: bool = False) -> int:
        """Keep other processes from removing the directory; return a file, or -1.

        The caller closes the file. Raises FileNotFoundError if the directory is being
        removed.
        """

    def holds(self, path: str, held: int) -> bool:
        """Tell whether the result of :meth:`hold` is of the directory now at *path*."""

    def enter(self, path: str, writer: str) -> int:
        """Make the presence file of a participant and return it."""

    def gone(self, path: str, writer: str) -> bool:
        """Tell whether the participant *writer* (8 digits) is known to be gone."""

    def claim(self, path: str, held: int = -1) -> AbstractContextManager[str | None]:
        """Take a directory without participants, to remove it; yield its hidden name.

        Yields ``None`` if the directory stays. No process can join it meanwhile.
        *held*: this process's own result of :meth:`hold`.
        """

    def clear(self, path: str) -> None:
        """Remove a hidden directory that no process is making or removing any more."""


class OneHost(Liveness):
    """Liveness by locks: the kernel drops those of a process that dies.

    Each participant shares the lock of the file ``lock``. A process that gets it
    exclusively may remove the session.
    """

    last = "lock"
    one_host = True
    #: Seconds after which a directory without a lock file counts as abandoned.
    half_made = 60.0

    @override
    def identity(self) -> dict[str, str]:
        return {"host": os.urandom(16).hex()}

    @override
    def hold(self, path: str, new: bool = False) -> int:
        flags = os.O_RDWR | (os.O_CREAT if new else 0)
        fd = open_plain(os.path.join(path, self.last), flags)
        try:
            if try_lock(fd, SHARED):
                return fd
            raise FileNotFoundError(path)
        except BaseException:
            os.close(fd)
            raise

    @override
    def holds(self, path: str, held: int) -> bool:
        return names(os.path.join(path, self.last), held)

    @override
    def enter(self, path: str, writer: str) -> int:
        return _make_presence(path, writer, locks=True)

    @override
    def gone(self, path: str, writer: str) -> bool:
        return _is_unlocked(path, writer)

    @contextmanager
    @override
    def claim(self, path: str, held: int = -1) -> Iterator[str | None]:
        with self._alone(path, held) as alone:
            if alone:
                with removing:
                    yield hide(path)
            else:
                yield None

    def has_ended(self, path: str) -> bool:
        """Tell whether a session has no participants and is left to be swept."""
        with self._alone(path) as alone:
            return alone

    @contextmanager
    def _alone(self, path: str, held: int = -1) -> Iterator[bool]:
        """Hold a session's lock alone if it has no participants; else yield False."""
        fd = held
        try:
            if held < 0:
                fd = open_plain(os.path.join(path, self.last), os.O_RDWR)
        except OSError:
            yield False  # no session at all
            return
        try:
            yield try_lock(fd, EXCLUSIVE) and self.holds(path, fd)
        finally:
            with suppress(OSError):  # a file system without locks
                unlock(fd)
            if fd != held:
                os.close(fd)

    @override
    def clear(self, path: str) -> None:
        lock = os.path.join(path, self.last)
        if os.path.lexists(lock) or ".spill-" in path:
            return
        with suppress(OSError):
            # Empty: if it is just being made, its maker tries again.
            os.rmdir(path)
        if is_older(path, self.half_made) and not os.path.lexists(lock):
            remove_whole(path, self.last)


class ManyHosts(Liveness):
    """Liveness by presence files, which name host and process.

    A process can check only participants of its own host; those of other hosts count as
    alive until their files go. On a local file system the files are locked as well,
    which works across containers. On other file systems locks are not relied on.

    *keep*: whether the objects of a new session stay when its last participant leaves.
    """

    last = "identity"
    one_host = False
    #: Seconds after which a half-made or half-removed directory is removed: clocks of
    #: hosts differ.
    half_made = 3600.0

    def __init__(self, keep: bool = False) -> None:
        self._keep = keep

    @override
    def identity(self) -> dict[str, str]:
        return {"file-session": "keep" if self._keep else "clear"}

    @override
    def hold(self, path: str, new: bool = False) -> int:
        return -1

    @override
    def holds(self, path: str, held: int) -> bool:
        return True

    @override
    def enter(self, path: str, writer: str) -> int:
        return _make_presence(path, writer, locks=is_local(path))

    @override
    def gone(self, path: str, writer: str) -> bool:
        try:
            there = load_record(read_own(os.path.join(path, f"p-{writer}")))
        except FileNotFoundError:
            return True
        except OSError:
            return False
        here = host()
        if there.get("host") != here["host"] or there.get("machine") != machine():
            return False
        if there.get("boot") != here["boot"]:
            # Booted again since; or, with no machine id to tell, another host of that
            # name.
            return bool(machine())
        if "locked" not in there:
            return has_ended(there)
        try:
            return _is_unlocked(path, writer)
        except OSError:
            return False

    @contextmanager
    @override
    def claim(self, path: str, held: int = -1) -> Iterator[str | None]:
        clears = read_identity(path).get("file-session") == "clear"
        if is_hidden(path) or not clears or not self._all_gone(path):
            yield None
            return
        with removing:
            hidden = hide(path)
            if hidden is not None and not self._all_gone(hidden):
                # 1. We saw nobody. 2. Another entered and read the identity. 3. We
                # renamed.
                os.rename(hidden, path)
                hidden = None
            yield hidden

    def _all_gone(self, path: str) -> bool:
        try:
            found = [_PRESENCE.fullmatch(name) for name in os.listdir(path)]
        except FileNotFoundError:
            return False  # another one removes it
        return all(self.gone(path, match[1]) for match in found if match)

    @override
    def clear(self, path: str) -> None:
        ours = "file-session" in read_identity(path)
        if ours and is_older(path, self.half_made):
            remove_whole(path, self.last)


def _make_presence(path: str, writer: str, locks: bool) -> int:
    """Make the presence file of a participant, locked if possible, and return it."""
    us = {**this_process(), **host()}
    hidden = os.path.join(path, f".p-{writer}")
    fd = open_plain(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        with suppress(OSError):  # a file system without locks
            if locks and try_lock(fd, EXCLUSIVE):
                us["locked"] = "yes"
        os.write(fd, json.dumps(us).encode())
        # Hidden until it is locked: no process takes the participant for dead.
        os.rename(hidden, os.path.join(path, f"p-{writer}"))
    except BaseException:
        os.close(fd)
        with suppress(OSError):
            os.unlink(hidden)
        raise
    return fd


def _is_unlocked(path: str, writer: str) -> bool:
    """Tell whether no process holds the lock of a participant's presence file."""
    try:
        fd = open_plain(os.path.join(path, f"p-{writer}"))
    except FileNotFoundError:
        return True
    try:
        gone = try_lock(fd, SHARED)
        unlock(fd)
        return gone
    finally:
        os.close(fd)
