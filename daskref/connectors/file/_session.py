"""A session in a directory that many hosts share: nothing here relies on locks.

A participant's presence file names its host and process. Only there can anyone tell
whether the participant lives; on other hosts it counts as alive until its file goes.
On a local file system the file is locked as well, which tells across containers. On
others that is not believed: locks may be missing, or be lost when a server restarts.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from threading import Lock

from daskref.background import forget_in_child
from daskref.connectors.files.directory import FULL
from daskref.connectors.files.folders import (
    check_private,
    make_presence,
    own_directories,
    presence_gone,
    read_identity,
    read_own,
    remove_whole,
    swept,
)
from daskref.connectors.files.locks import unlock, write_whole
from daskref.connectors.filesystems import is_local
from daskref.connectors.processes import has_ended, host, machine, this_process
from daskref.exceptions import ConnectorUnavailableError

_NAME = re.compile("daskref-[0-9]+-[0-9a-f]+")
_PRESENCE = re.compile("p-([0-9a-f]{8})")
#: Seconds after which a half-made or half-removed directory is removed.
_HALF_MADE = 3600.0


class FileSession:
    """One process's part in a session.

    Parameters
    ----------
    root
        The directory that hosts share.
    name
        Of the session's directory in it; ``None`` for a new one.
    nonce
        What its identity file must say.
    keep
        Whether the objects of a new session stay when its last participant leaves.

    Raises
    ------
    ConnectorUnavailableError
        If there is no such session here.
    """

    path: str
    name: str
    nonce: str
    #: 8 hexadecimal digits of this participant; new in a forked child.
    writer: str
    _presence_fd: int
    _mutex: Lock

    def __init__(
        self, root: str, name: str | None, nonce: str | None, keep: bool
    ) -> None:
        new = name is None or nonce is None
        self.name = name or f"daskref-{os.geteuid()}-{secrets.token_hex(8)}"
        self.nonce = nonce or secrets.token_hex(16)
        self.path = os.path.join(os.path.abspath(root), self.name)
        self.writer = ""
        self._presence_fd = -1
        self._mutex = Lock()
        if not _NAME.fullmatch(self.name):
            raise ConnectorUnavailableError(repr(self), "this is no session's name")
        if new:
            self._make(keep)
        else:
            self.ensure()

    def _make(self, keep: bool) -> None:
        root, name = os.path.split(self.path)
        hidden = os.path.join(root, f".{name}-{secrets.token_hex(4)}")
        identity = {"nonce": self.nonce, "file-session": "keep" if keep else "clear"}
        try:
            os.mkdir(hidden, 0o700)
            write_whole(os.path.join(hidden, "identity"), json.dumps(identity).encode())
            self._enter(hidden)
            os.rename(hidden, self.path)
        except OSError as exc:
            self.forget()
            shutil.rmtree(hidden, ignore_errors=True)
            raise self._unusable(exc) from exc

    def ensure(self) -> None:
        """Join, unless this process has; raises as the constructor does."""
        if self._presence_fd >= 0:
            return
        with self._mutex:
            if self._presence_fd >= 0:
                return
            check_private(self.path, repr(self))
            try:
                self._enter(self.path)
            except FileNotFoundError as exc:
                raise self._ended() from exc
            except OSError as exc:
                raise self._unusable(exc) from exc
            # After entering: who removes the session looks for our presence.
            if read_identity(self.path).get("nonce") != self.nonce:
                self._exit()
                raise self._ended()

    def _ended(self) -> ConnectorUnavailableError:
        return ConnectorUnavailableError(
            repr(self), "the session has ended, or lives in another host's directory"
        )

    def _unusable(self, exc: OSError) -> ConnectorUnavailableError:
        full = ": it is full" if exc.errno in FULL else ""
        return ConnectorUnavailableError(
            repr(self),
            f"{os.path.dirname(self.path)} cannot be written to{full} "
            f"({exc.strerror}). Every process needs to, also those that only read: "
            "name another directory, as in daskref.connector: file:///directory",
        )

    def _enter(self, path: str) -> None:
        self.writer = secrets.token_hex(4)
        us = {**this_process(), **host()}
        locked = json.dumps({**us, "locked": "yes"}).encode()
        self._presence_fd = make_presence(
            path,
            self.writer,
            locked if is_local(path) else None,
            json.dumps(us).encode(),
        )
        forget_in_child(self)

    def _exit(self) -> None:
        fd, self._presence_fd = self._presence_fd, -1
        if fd < 0:
            return
        try:
            os.unlink(os.path.join(self.path, f"p-{self.writer}"))
        except FileNotFoundError:
            pass
        finally:
            with suppress(OSError):  # a file system without locks
                unlock(fd)
            os.close(fd)

    def forget(self) -> None:
        """Have no part any more, in a forked child; the parent keeps its own."""
        if self._presence_fd >= 0:
            os.close(self._presence_fd)
        self._presence_fd = -1
        self._mutex = Lock()

    def gone(self, writer: str) -> bool:
        """Tell whether the participant with these 8 digits is known to be gone."""
        return _gone(self.path, writer)

    def leave(self) -> None:
        """End this process's part; the last one removes the directory. Idempotent."""
        with self._mutex:
            if self._presence_fd < 0:
                return
            self._exit()
            _remove_if_empty(self.path)

    @staticmethod
    def sweep(root: str) -> list[str]:
        """Remove this user's sessions whose participants are all known to be gone.

        Returns
        -------
        list of str
            What was removed.
        """
        return swept(own_directories(root), _sweep)

    def __repr__(self) -> str:
        return f"<FileSession {self.path}>"


def _sweep(path: str) -> bool:
    if not os.path.basename(path).startswith("."):
        return _remove_if_empty(path)
    if "file-session" in read_identity(path) and _old(path):
        shutil.rmtree(path, ignore_errors=True)
    return False


def _old(path: str) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime > _HALF_MADE
    except FileNotFoundError:
        return False


def _gone(path: str, writer: str) -> bool:
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
        # Booted again since; or, with no machine id to tell, another host of that name.
        return bool(machine())
    if "locked" not in there:
        return has_ended(there)
    try:
        return presence_gone(path, writer)
    except OSError:
        return False


def _all_gone(path: str) -> bool:
    found = [_PRESENCE.fullmatch(name) for name in os.listdir(path)]
    return all(_gone(path, match[1]) for match in found if match)


def _remove_if_empty(path: str) -> bool:
    identity = read_identity(path)
    try:
        if identity.get("file-session") != "clear" or not _all_gone(path):
            return False
        root, name = os.path.split(path)
        hidden = os.path.join(root, f".{name}-{secrets.token_hex(4)}")
        os.rename(path, hidden)
        if not _all_gone(hidden):
            # 1. We saw nobody. 2. Another entered and read the identity. 3. We renamed.
            os.rename(hidden, path)
            return False
    except FileNotFoundError:
        return False  # another one removes it
    remove_whole(hidden, "identity")
    return True
