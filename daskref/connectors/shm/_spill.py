"""The directory on disk for a session's objects, which is removed with the session.

The directory has no lock of its own: the session records its path, and a process that
removes the session removes the directory first. After a reboot, the identity file tells
that the session has ended. The name is random and recorded only within the session's
private directory, so that no other user can create the directory first.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import dataclass, field
from threading import Lock

from daskref.background import make_lock
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
from daskref.connectors.processes import host
from daskref.exceptions import ConnectorUnavailableError

#: Seconds after which a directory without an identity was abandoned half-made.
_HALF_MADE = 60.0


@dataclass(eq=False, repr=False)
class Spill:
    """The objects that a session has on disk, if it has any."""

    session: DirectorySession
    #: Where it would put them; another process may have chosen another place first.
    root: str
    _objects: ObjectDirectory | None = None
    _is_memory: bool | None = None
    _lock: Lock = field(default_factory=make_lock)

    def __post_init__(self) -> None:
        self._record = os.path.join(self.session.path, "spill")

    @property
    def is_memory(self) -> bool:
        """Whether the root is in memory, too: then moving gains nothing."""
        if self._is_memory is None:
            self._is_memory = is_memory(self.root)
        return self._is_memory

    def find(self) -> ObjectDirectory | None:
        """Return the session's directory on disk, if it has one.

        Raises ConnectorUnavailableError if the directory is not the session's.
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

        Raises ConnectorUnavailableError as :meth:`find` does; OSError if it cannot be
        made.
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
        """Record in the session where the directory will be, once for all processes."""
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


def sweep_spills(root: str, remove: bool = True) -> list[str]:
    """Remove this user's directories in *root* whose session has ended.

    Returns them. *remove*: False only lists them.
    """
    return swept(own_directories(root), _sweep if remove else _is_left)


def _sweep(path: str) -> bool:
    if left := _is_left(path):
        remove_whole(path, "identity")
    return left


def _is_left(path: str) -> bool:
    identity = read_identity(path)
    if "session" in identity:
        return _ended(identity)
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
