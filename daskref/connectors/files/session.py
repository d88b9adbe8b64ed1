"""The session directory: whatever happens to its processes, it goes with the last.

::

    <root>/daskref-<uid>-<id>/   0700
        lock                     every participant holds its shared lock
        identity                 a nonce: the same path elsewhere is another session;
                                 and a host: the same session elsewhere is another host
        p-<8 digits>             one per participant, locked exclusively while it lives
        servers/<8 digits>       where a participant serves other hosts, if it does
        f-<name>                 how far an object has come that is being fetched
        spill                    where the session has objects on disk, if it has
        free/                    files to write again
        moving                   locked by who moves objects to disk
        <8 digits>-<24 digits>   objects; the first digits are the participant's
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import time
import weakref
from contextlib import suppress
from threading import Lock

from daskref.background import call_at_end, forget_in_child, make_rlock
from daskref.connectors.files.folders import (
    check_private,
    make_presence,
    own_directories,
    presence_gone,
    read_identity,
    read_own,
    remove_spill,
    remove_whole,
    swept,
)
from daskref.connectors.files.locks import (
    EXCLUSIVE,
    SHARED,
    names,
    open_plain,
    try_lock,
    unlock,
    write_whole,
)
from daskref.exceptions import ConnectorUnavailableError

logger = logging.getLogger(__name__)

#: Those that this process takes part in, and where sessions are that it has seen.
_taken_part: weakref.WeakSet[SessionDirectory] = weakref.WeakSet()
_roots: set[str] = set()
#: Held while a session is removed. Reentrant: the collector may end another one there.
_removing = make_rlock()

#: Seconds after which a directory without a lock file was abandoned half-made.
_HALF_MADE = 60.0
#: How often joining and making a session may lose a race before it is an error, and
#: seconds between two attempts.
_RACES, _RACE = 200, 0.005


class SessionDirectory:
    """One process's part in a session. Make it with :meth:`create` or :meth:`join`.

    Parameters
    ----------
    path
        The directory.
    nonce
        What its identity file must say.

    Notes
    -----
    A forked child has no part in the session until it calls :meth:`ensure`; it then
    joins as a participant of its own.
    """

    #: The directory.
    path: str
    #: What tells it from another session at the same path.
    nonce: str
    #: 8 hexadecimal digits of this participant; new in a forked child.
    writer: str
    _lock_fd: int
    _presence_fd: int
    _mutex: Lock

    def __init__(self, path: str, nonce: str) -> None:
        self.path = path
        self.nonce = nonce
        self.writer = ""
        self._lock_fd = self._presence_fd = -1
        self._mutex = Lock()

    @classmethod
    def create(cls, root: str, id: str | None = None) -> SessionDirectory:
        """Make a new session.

        Parameters
        ----------
        root
            An existing directory.
        id
            Last part of the directory's name; random by default.

        Raises
        ------
        ConnectorUnavailableError
            If the directory cannot be made there.
        """
        nonce = secrets.token_hex(16)
        for _ in range(10):
            name = f"daskref-{os.geteuid()}-{id or secrets.token_hex(8)}"
            session = cls(os.path.join(os.path.abspath(root), name), nonce)
            try:
                if session._make():
                    return session
            except OSError as exc:
                raise ConnectorUnavailableError(
                    repr(session),
                    f"the session directory could not be made: {exc.strerror}. Name a "
                    "directory that exists and that you may write to, as in "
                    "daskref.connector: shm:///directory",
                ) from exc
        raise ConnectorUnavailableError(
            repr(session), "the session directory was deleted while it was made"
        )

    def _make(self) -> bool:
        root, name = os.path.split(self.path)
        hidden = os.path.join(root, f".{name}-{secrets.token_hex(4)}")
        os.mkdir(hidden, 0o700)
        fd = -1
        try:
            fd = open_plain(os.path.join(hidden, "lock"), os.O_RDWR | os.O_CREAT)
            if not try_lock(fd, SHARED):
                raise FileNotFoundError  # a sweeper is about to remove it
            identity = json.dumps({"nonce": self.nonce, "host": secrets.token_hex(16)})
            write_whole(os.path.join(hidden, "identity"), identity.encode())
            os.mkdir(os.path.join(hidden, "free"), 0o700)
            os.rename(hidden, self.path)
            if not names(os.path.join(self.path, "lock"), fd):
                raise FileNotFoundError
            self._enter(fd)
        except BaseException as exc:
            if fd >= 0:
                os.close(fd)
            shutil.rmtree(hidden, ignore_errors=True)
            # A sweeper may take the lock before us: then it removes the directory.
            if isinstance(exc, FileNotFoundError):
                return False
            raise
        return True

    @classmethod
    def join(cls, path: str, nonce: str) -> SessionDirectory:
        """Take part in an existing session.

        Parameters
        ----------
        path, nonce
            As the session has them in the process that made it.

        Raises
        ------
        ConnectorUnavailableError
            If this is not that session, or not a safe directory.
        """
        session = cls(path, nonce)
        session.ensure()
        return session

    @classmethod
    def join_or_create(cls, path: str, nonce: str) -> SessionDirectory:
        """Take part in the session at a path; the first one makes it.

        Parameters
        ----------
        path, nonce
            The same for all who mean this session.

        Raises
        ------
        ConnectorUnavailableError
            If the directory cannot be made, or is another session's.
        """
        session = cls(path, nonce)
        for turn in range(_RACES):
            try:
                if os.path.lexists(path):
                    session.ensure()
                    return session
                if session._make():
                    return session
            except ConnectorUnavailableError:
                # The last one has just left, unless it is not ours at all.
                theirs = read_identity(path).get("nonce", nonce) != nonce
                if theirs or turn == _RACES - 1:
                    raise
            except OSError as exc:
                # Another one has just made it.
                if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise session._unavailable(
                        f"the session directory could not be made: {exc.strerror}"
                    ) from exc
            time.sleep(_RACE)
        raise session._unavailable("it ends whenever this process joins it")

    @property
    def host(self) -> str:
        """32 hexadecimal digits of this directory, whatever hosts are called."""
        return read_identity(self.path).get("host", "")

    def ensure(self) -> None:
        """Join, unless this process has. Raises as :meth:`join` does."""
        if self._lock_fd >= 0:
            return
        with self._mutex:
            if self._lock_fd < 0:
                self._join()

    def _join(self) -> None:
        check_private(self.path, repr(self))
        try:
            fd = open_plain(os.path.join(self.path, "lock"), os.O_RDWR)
        except OSError as exc:
            raise self._unavailable("it is not a session directory") from exc
        try:
            if not try_lock(fd, SHARED):
                raise self._unavailable("the session has ended")
            if read_identity(self.path).get("nonce") != self.nonce:
                raise self._unavailable(
                    "there is another session at this path: the one that is meant "
                    "lives on another host or in another container, or has ended"
                )
            if not names(os.path.join(self.path, "lock"), fd):
                raise self._unavailable("the session has ended")
            self._enter(fd)
        except FileNotFoundError as exc:
            os.close(fd)
            raise self._unavailable("the session has ended") from exc
        except BaseException:
            os.close(fd)
            raise

    def _unavailable(self, message: str) -> ConnectorUnavailableError:
        return ConnectorUnavailableError(repr(self), message)

    def _enter(self, lock_fd: int) -> None:
        self.writer = secrets.token_hex(4)
        self._presence_fd = make_presence(self.path, self.writer)
        self._lock_fd = lock_fd
        forget_in_child(self)
        _taken_part.add(self)
        sweep_at_end(os.path.dirname(self.path))

    def forget(self) -> None:
        """Have no part any more, in a forked child; the parent keeps its own."""
        for fd in (self._lock_fd, self._presence_fd):
            if fd >= 0:
                os.close(fd)
        self._lock_fd = self._presence_fd = -1
        self._mutex = Lock()

    def gone(self, writer: str) -> bool:
        """Tell whether the participant with these 8 digits is gone."""
        return presence_gone(self.path, writer)

    def leave(self) -> None:
        """End this process's part; the last one removes the directory. Idempotent."""
        with self._mutex:
            if self._lock_fd < 0:
                return
            lock_fd, presence_fd = self._lock_fd, self._presence_fd
            self._lock_fd = self._presence_fd = -1
            try:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.path, f"p-{self.writer}"))
                # Not by closing: a child that is being started may have the file open.
                unlock(presence_fd)
                if try_lock(lock_fd, EXCLUSIVE) and names(
                    os.path.join(self.path, "lock"), lock_fd
                ):
                    _remove(self.path)
                unlock(lock_fd)
            finally:
                os.close(presence_fd)
                os.close(lock_fd)

    @staticmethod
    def sweep(root: str) -> list[str]:
        """Remove this user's sessions that no process takes part in.

        Parameters
        ----------
        root
            The directory that holds them; it need not exist.

        Returns
        -------
        list of str
            What was removed.
        """
        return swept(own_directories(root), _sweep)

    def __repr__(self) -> str:
        return f"<SessionDirectory {self.path}>"


def sweep_at_end(root: str) -> None:
    """Remove the sessions in *root* that nobody takes part in, when this process ends.

    Whichever process ends last removes a session. One that is killed cannot, as most
    workers are: then it is the process that has started it. Nor can a thread that is
    just removing one when its process ends: it is waited for, or another process
    goes on with what is left.
    """
    _roots.add(root)
    call_at_end(_end)


def _end() -> None:
    try:
        with _removing:
            pass  # in another thread, which would not live to finish it
        for session in list(_taken_part):
            session.leave()
        for root in list(_roots):
            SessionDirectory.sweep(root)
    except Exception:  # whoever starts next sweeps
        logger.debug("Could not sweep %s", _roots, exc_info=True)


def _sweep(path: str) -> bool:
    try:
        fd = open_plain(os.path.join(path, "lock"), os.O_RDWR)
    except OSError:
        _remove_abandoned(path)
        return False
    try:
        if not try_lock(fd, EXCLUSIVE):
            return False
        try:
            if not names(os.path.join(path, "lock"), fd):
                return False
            _remove(path)
            return True
        finally:
            unlock(fd)
    finally:
        os.close(fd)


def _remove_abandoned(path: str) -> None:
    # Without a lock file: half-made, half-removed, or no session at all.
    if not os.path.basename(path).startswith(".") or ".spill-" in path:
        return
    with suppress(OSError):
        # Empty: if it is just being made, its maker tries again.
        os.rmdir(path)
    with suppress(FileNotFoundError):
        old = time.time() - os.lstat(path).st_mtime > _HALF_MADE
        if old and not os.path.lexists(os.path.join(path, "lock")):
            shutil.rmtree(path, ignore_errors=True)


def _remove(path: str) -> None:
    """Remove a session whose exclusive lock is held, what it has on disk first."""
    with _removing:
        nonce = read_identity(path).get("nonce")
        with suppress(OSError, ValueError):  # what is on disk is swept on its own, too
            remove_spill(read_own(os.path.join(path, "spill")).decode(), nonce)
        root, name = os.path.split(path)
        hidden = path
        if not name.startswith("."):
            hidden = os.path.join(root, f".{name}-{secrets.token_hex(4)}")
            try:
                os.rename(path, hidden)
            except FileNotFoundError:
                return
        remove_whole(hidden, "lock")
