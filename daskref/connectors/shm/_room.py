"""The room of a session: a budget in memory, and a directory on disk for the rest.

The directory on disk has no lock of its own. The session says where it is, and whoever
removes the session removes it first. What a reboot leaves behind is told by its
identity file. Nobody can guess its name, and so be there first: it is random, and is
written only into the session's directory, which others cannot read.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from threading import Lock

from daskref.background import forget_in_child, make_lock
from daskref.connectors.files.directory import ObjectDirectory
from daskref.connectors.files.folders import (
    check_private,
    hidden_spill,
    is_older,
    own_directories,
    read_identity,
    read_own,
    remove_whole,
    swept,
)
from daskref.connectors.files.locks import write_whole
from daskref.connectors.files.session import DirectorySession
from daskref.connectors.filesystems import is_memory
from daskref.connectors.machine import SHARE, Reserve, memory
from daskref.connectors.processes import host
from daskref.exceptions import ConnectorUnavailableError

#: Seconds for which a count of the session's files is believed.
_BELIEVED = 0.5
#: Seconds after which a directory without an identity was abandoned half-made.
_HALF_MADE = 60.0


class Budget:
    """The room for new files in one directory.

    Parameters
    ----------
    path
        The directory.
    limit
        A fraction (float): of the file system, whoever fills it, and of half of the
        memory of container or machine. Bytes (int): of what the directory's files take
        up.

    Notes
    -----
    Whatever the limit, a part of the memory stays available, see :class:`Reserve`.
    """

    path: str
    limit: int | float
    _memory: int
    _reserve: Reserve
    _lock: Lock
    _counted: int
    _counted_at: float

    def __init__(self, path: str, limit: int | float) -> None:
        self.path = path
        self.limit = limit
        self._memory = part_of(SHARE, memory()[0])
        self._reserve = Reserve()
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Count anew, in a forked child."""
        self._counted = 0
        self._counted_at = -_BELIEVED
        self._lock = Lock()

    def lacking(self, nbytes: int) -> int:
        """Return how many bytes must be freed before a file of *nbytes* may be made."""
        total, free = _space(self.path)
        lacking = max(0, nbytes - free)
        most, counts = self._most(total), True
        if isinstance(self.limit, float):
            fraction = part_of(self.limit, total)
            lacking = max(lacking, total - free + nbytes - fraction)
            counts = most < fraction  # else that says it all
        if counts:
            lacking = max(lacking, self._used(nbytes, most) + nbytes - most)
        return max(lacking, self._reserve.lacking(nbytes))

    def share(self, part: int | float) -> int:
        """Return *part* in bytes: a fraction (float) of the budget, or bytes."""
        return part_of(part, self._most(_space(self.path)[0]))

    def _most(self, total: int) -> int:
        """Return the budget in bytes, where the file system has *total*."""
        if isinstance(self.limit, float):
            total = min(total, self._memory)
        return part_of(self.limit, total)

    def _used(self, nbytes: int, limit: int) -> int:
        """Count the files, or estimate from the last count when the limit is far."""
        with self._lock:
            now = time.monotonic()
            recent = now - self._counted_at < _BELIEVED
            if recent and self._counted + 2 * nbytes <= limit:
                self._counted += nbytes
                return self._counted - nbytes
            self._counted = _count(self.path) + _count(os.path.join(self.path, "free"))
            self._counted_at = now
            used = self._counted
            self._counted += nbytes
            return used


def part_of(part: int | float, whole: int) -> int:
    """Return a fraction (float) of *whole*, or *part* as it is; never more than all."""
    # 1.0 of a large number may be more than that: it is rounded to a float.
    return min(int(part * whole) if isinstance(part, float) else part, whole)


def _space(path: str) -> tuple[int, int]:
    there = os.statvfs(path)
    if there.f_blocks:
        return there.f_blocks * there.f_frsize, there.f_bavail * there.f_frsize
    # A tmpfs without a limit of its own: the memory is the limit.
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page


def _count(path: str) -> int:
    sizes = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    there = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if entry.is_file(follow_symlinks=False):
                    sizes[there.st_ino] = there.st_size
    except FileNotFoundError:
        pass
    return sum(sizes.values())


class Spill:
    """The objects that a session has on disk, once it has some.

    Parameters
    ----------
    session
        The session.
    root
        Where it would put them; another process may have chosen another place first.
    """

    session: DirectorySession
    root: str
    _objects: ObjectDirectory | None

    def __init__(self, session: DirectorySession, root: str) -> None:
        self.session = session
        self.root = root
        self._record = os.path.join(session.path, "spill")
        self._objects = None
        self._is_memory: bool | None = None
        self._lock = make_lock()

    @property
    def is_memory(self) -> bool:
        """Whether it would take memory, too: then nothing is gained by moving."""
        if self._is_memory is None:
            self._is_memory = is_memory(self.root)
        return self._is_memory

    def find(self) -> ObjectDirectory | None:
        """Return the session's directory on disk, if it has one.

        Raises
        ------
        ConnectorUnavailableError
            If what is there is not the session's.
        """
        if self._objects is None:
            path = self._recorded()
            if path is None or not os.path.lexists(path):
                return None
            check_private(path, repr(self.session))
            if read_identity(path).get("nonce") != self.session.nonce:
                raise ConnectorUnavailableError(
                    repr(self.session), f"{path} belongs to another session"
                )
            self._objects = ObjectDirectory(path)
        return self._objects

    def make(self) -> ObjectDirectory:
        """Return the session's directory on disk; make it if it has none.

        Raises
        ------
        ConnectorUnavailableError
            As :meth:`find` does.
        OSError
            If it cannot be made.
        """
        with self._lock:
            while (found := self.find()) is None:
                self._make(self._recorded() or self._choose())
        return found

    def _make(self, path: str) -> None:
        folder, name = os.path.split(path)
        hidden = os.path.join(folder, hidden_spill(name) + secrets.token_hex(4))
        os.mkdir(hidden, 0o700)
        identity = {
            "nonce": self.session.nonce,
            "session": self.session.path,
            "device": str(os.lstat(self.session.path).st_dev),
            **host(),
        }
        try:
            write_whole(os.path.join(hidden, "identity"), json.dumps(identity).encode())
            os.rename(hidden, path)
        except OSError:
            shutil.rmtree(hidden, ignore_errors=True)
            if self.find() is None:  # else another process was faster
                raise

    def _recorded(self) -> str | None:
        try:
            return read_own(self._record).decode()
        except FileNotFoundError:
            return None

    def _choose(self) -> str:
        """Say in the session where the directory will be, once for all processes."""
        name = f"daskref-{os.geteuid()}-{secrets.token_hex(16)}.spill"
        path = os.path.join(os.path.abspath(self.root), name)
        part = os.path.join(self.session.path, f".spill-{secrets.token_hex(4)}")
        write_whole(part, path.encode())
        try:
            os.link(part, self._record)
        except FileExistsError:
            return self._recorded() or path
        finally:
            os.unlink(part)
        return path


def sweep_spills(root: str) -> list[str]:
    """Remove this user's directories in *root* whose session has ended.

    Returns
    -------
    list of str
        What was removed.
    """
    return swept(own_directories(root), _sweep)


def _sweep(path: str) -> bool:
    identity = read_identity(path)
    ended = _ended(identity) if "session" in identity else _abandoned(path, identity)
    if ended:
        remove_whole(path, "identity")
    return ended


def _abandoned(path: str, identity: dict[str, str]) -> bool:
    """Tell whether a directory without an identity was left half-made, long ago."""
    named = ".spill" in os.path.basename(path)
    return named and not identity and is_older(path, _HALF_MADE)


def _ended(identity: dict[str, str]) -> bool:
    here = host()
    if identity.get("host") != here["host"]:
        return False  # the directory is shared between hosts
    if identity.get("boot") != here["boot"]:
        return True
    session = identity["session"]
    try:
        device = os.stat(os.path.dirname(session)).st_dev
    except OSError:
        return False
    if str(device) != identity.get("device"):
        return False  # another container's: its session cannot be seen from here
    return read_identity(session).get("nonce") != identity.get("nonce")
