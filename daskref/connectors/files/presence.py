"""How the processes of a session tell who takes part in it.

Each has a presence file, locked while the process lives. On one host that is enough
(:class:`OneHost`). Where hosts share a directory, locks may be missing, or be lost when
a server restarts (:class:`ManyHosts`).
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
from daskref.connectors.processes import has_ended, host, machine, this_process

_PRESENCE = re.compile("p-([0-9a-f]{8})")


class Liveness(Protocol):
    """Who takes part in the session in a directory, and whether anyone does."""

    #: The file that goes last when a session is removed: it says what the directory is.
    last: str
    #: Whether all participants are on this host. Then a process that ends sweeps, for
    #: those that it has started.
    one_host: bool

    def identity(self) -> dict[str, str]:
        """Return what the identity file of a new session says beside the nonce."""

    def hold(self, path: str, new: bool = False) -> int:
        """Keep others from removing the directory; return the file to close, or -1.

        Raises FileNotFoundError if someone is removing it.
        """

    def holds(self, path: str, held: int) -> bool:
        """Tell whether what :meth:`hold` has returned is of this very directory."""

    def enter(self, path: str, writer: str) -> int:
        """Make the presence file of a participant, and return it."""

    def gone(self, path: str, writer: str) -> bool:
        """Tell whether the participant with these 8 digits is known to be gone."""

    def claim(self, path: str, held: int = -1) -> AbstractContextManager[str | None]:
        """Have the directory to remove it, under a hidden name; ``None``: it stays.

        Nobody takes part then, and nobody can join. *held* is this process's own.
        """

    def clear(self, path: str) -> None:
        """Remove a hidden directory that is not made, or removed, any more."""


class OneHost(Liveness):
    """Locks tell: the kernel drops those of a process that dies.

    Each participant shares the lock of the file ``lock``. Whoever has it alone may
    remove the session.
    """

    last = "lock"
    one_host = True
    #: Seconds after which a directory without a lock file was abandoned half-made.
    half_made = 60.0

    def identity(self) -> dict[str, str]:
        """Tell this host's directory from one of that name elsewhere."""
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
    def claim(self, path: str, held: int = -1) -> Iterator[str | None]:
        """See :meth:`Liveness.claim`."""
        with self._alone(path, held) as alone:
            if alone:
                with removing:
                    yield hide(path)
            else:
                yield None

    def has_ended(self, path: str) -> bool:
        """Tell whether nobody takes part in a session, which is then left to sweep."""
        with self._alone(path) as alone:
            return alone

    @contextmanager
    def _alone(self, path: str, held: int = -1) -> Iterator[bool]:
        """Have a session's lock alone, if nobody takes part; else ``False``."""
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
    """Presence files tell: they name host and process.

    Only on that host can anyone tell whether the participant lives; on others it counts
    as alive until its file goes. On a local file system the file is locked as well,
    which tells across containers. On others locks are not believed.

    Parameters
    ----------
    keep
        Whether the objects of a new session stay when its last participant leaves.
    """

    last = "identity"
    one_host = False
    #: Seconds after which a half-made or half-removed directory is removed: clocks of
    #: hosts differ.
    half_made = 3600.0

    def __init__(self, keep: bool = False) -> None:
        self._keep = keep

    def identity(self) -> dict[str, str]:
        """Say what becomes of the objects."""
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
            there = json.loads(read_own(os.path.join(path, f"p-{writer}")))
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False
        if not isinstance(there, dict):
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
    def claim(self, path: str, held: int = -1) -> Iterator[str | None]:
        """See :meth:`Liveness.claim`."""
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
        # Hidden until it is locked: nobody takes us for dead.
        os.rename(hidden, os.path.join(path, f"p-{writer}"))
    except BaseException:
        os.close(fd)
        with suppress(OSError):
            os.unlink(hidden)
        raise
    return fd


def _is_unlocked(path: str, writer: str) -> bool:
    """Tell whether nobody holds the presence file of a participant."""
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
