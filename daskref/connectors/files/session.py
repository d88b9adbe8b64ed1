"""The directory of a session, which its last process removes.

::

    <root>/daskref-<uid>-<id>/   0700
        identity                 a nonce: the same path elsewhere is another session;
                                 and a host: the same session elsewhere is another host
        p-<8 digits>             one per participant: whether it lives
        lock                     on one host: every participant holds its shared lock
        servers/<8 digits>       where a participant serves other hosts, if it does
        f-<name>                 how far an object has come that is being fetched
        spill                    where the session has objects on disk, if it has
        free/                    files to write again
        moving                   locked by the process that moves objects to disk
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
from dataclasses import dataclass
from functools import partial
from threading import Lock

from daskref.background import call_at_end, forget_in_child
from daskref.connectors.failures import of_system
from daskref.connectors.files.folders import (
    check_private,
    hidden_name,
    is_hidden,
    own_directories,
    read_identity,
    read_own,
    remove_spill,
    remove_whole,
    removing,
    swept,
)
from daskref.connectors.files.locks import unlock, write_whole
from daskref.connectors.files.presence import Liveness, OneHost
from daskref.connectors.files.reaper import Reaper
from daskref.exceptions import ConnectorError, ConnectorUnavailableError

logger = logging.getLogger(__name__)

#: The sessions that this process takes part in, and the directories to sweep at exit.
_taken_part: weakref.WeakSet[DirectorySession] = weakref.WeakSet()
_roots: set[str] = set()

#: Attempts to join or make a session in a race with others; seconds between two.
_RACES, _RACE = 200, 0.005


@dataclass(eq=False, repr=False)
class DirectorySession:
    """One process's part in a session. Make it with :meth:`create` or :meth:`join`.

    Notes
    -----
    A forked child has no part in the session until it calls :meth:`ensure`; then it
    joins as a new participant.
    """

    #: The directory.
    path: str
    #: What the identity file must say: another session at this path says another one.
    nonce: str
    #: How participants tell which of them live.
    _liveness: Liveness
    #: 8 hexadecimal digits of this participant; new in a forked child.
    writer: str = ""
    #: Whether this process takes part; asked before each use.
    joined: bool = False
    _held_fd: int = -1
    _presence_fd: int = -1
    _reaper: Reaper | None = None

    def __post_init__(self) -> None:
        self.forget()
        forget_in_child(self)

    @classmethod
    def create(cls, root: str, liveness: Liveness) -> DirectorySession:
        """Make a new session in the existing directory *root*.

        Raises ConnectorUnavailableError if the directory cannot be made there.
        """
        name = f"daskref-{os.geteuid()}-{secrets.token_hex(8)}"
        path = os.path.join(os.path.abspath(root), name)
        return cls.join_or_create(path, secrets.token_hex(16), liveness)

    @classmethod
    def join(cls, path: str, nonce: str, liveness: Liveness) -> DirectorySession:
        """Take part in an existing session.

        Raises ConnectorUnavailableError if the directory is not that session's, or not
        this user's alone.

        Parameters
        ----------
        path, nonce, liveness
            The same as in the process that made the session.
        """
        session = cls(path, nonce, liveness)
        session.ensure()
        return session

    @classmethod
    def join_or_create(
        cls, path: str, nonce: str, liveness: Liveness
    ) -> DirectorySession:
        """Take part in the session at a path; the first process makes it.

        Raises ConnectorUnavailableError if the directory cannot be made, or is another
        session's.

        Parameters
        ----------
        path, nonce, liveness
            The same in all processes of the session.
        """
        session = cls(path, nonce, liveness)
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
                    raise session._unusable(exc) from exc
            time.sleep(_RACE)
        raise session._unavailable("it ends whenever this process joins it")

    @property
    def host(self) -> str:
        """32 hexadecimal digits that identify this host's directory."""
        return read_identity(self.path).get("host", "")

    # Joining.

    def _make(self) -> bool:
        """Make the directory and take part; False if it was removed meanwhile."""
        hidden = hidden_name(self.path)
        os.mkdir(hidden, 0o700)
        try:
            self._held_fd = self._liveness.hold(hidden, new=True)
            self._identify(hidden)
            self._enter(hidden)
            os.rename(hidden, self.path)
            if not self._liveness.holds(self.path, self._held_fd):
                raise FileNotFoundError(self.path)
            self._has_joined()
            self._made = True
        except BaseException as exc:
            self.forget()
            shutil.rmtree(hidden, ignore_errors=True)
            # A sweeper may take the lock before us: then it removes the directory.
            if isinstance(exc, FileNotFoundError):
                return False
            raise
        return True

    def ensure(self) -> None:
        """Join, unless this process has joined. Raises as :meth:`join` does."""
        if self.joined:
            return
        with self._mutex:
            try:
                self._join()
            except BaseException:
                self._exit()
                self._let_go()
                raise

    def _join(self) -> None:
        if self.joined:
            return
        check_private(self.path, repr(self))
        try:
            self._held_fd = self._liveness.hold(self.path)
            self._enter(self.path)
            # After entering: a process that removes the session checks presences.
            nonce = read_identity(self.path).get("nonce")
            if nonce is None or not self._liveness.holds(self.path, self._held_fd):
                raise FileNotFoundError(self.path)
        except FileNotFoundError as exc:
            raise self._unavailable(
                "this is not a session's directory, or the session has ended"
            ) from exc
        except OSError as exc:
            raise self._unusable(exc) from exc
        if nonce != self.nonce:
            raise self._unavailable(
                "there is another session at this path: the one that is meant lives "
                "on another host or in another container, or has ended"
            )
        self._has_joined()

    def _enter(self, path: str) -> None:
        self.writer = secrets.token_hex(4)
        self._presence_fd = self._liveness.enter(path, self.writer)

    def _has_joined(self) -> None:
        self.joined = True
        _taken_part.add(self)
        if self._liveness.one_host:
            sweep_at_end(os.path.dirname(self.path))

    def _unavailable(self, message: str) -> ConnectorUnavailableError:
        return ConnectorUnavailableError(repr(self), message)

    def _unusable(self, exc: OSError) -> ConnectorError:
        what = (
            f"{os.path.dirname(self.path)} cannot be written to, as every process "
            "needs to, also those that only read"
        )
        return of_system(exc, repr(self), what, unavailable=True)

    # The end.

    def gone(self, writer: str) -> bool:
        """Tell whether the participant *writer* (8 digits) is known to be gone."""
        return self._liveness.gone(self.path, writer)

    def outlive(self) -> None:
        """Have the session removed even if all of its processes are killed.

        Starts a :class:`Reaper` for this process, if it made the session.
        """
        with self._mutex:
            if self._made and self._reaper is None:
                self._reaper = Reaper(self.path)

    def forget(self) -> None:
        """Take no part any more, in a forked child; the parent continues."""
        self.joined = self._made = False
        reaper, self._reaper = self._reaper, None
        if reaper is not None:
            reaper.forget()
        presence, self._presence_fd = self._presence_fd, -1
        if presence >= 0:
            os.close(presence)
        self._let_go()
        self._mutex = Lock()

    def change(self, liveness: Liveness) -> None:
        """Let the session end as another liveness says, if this process takes part.

        Raises OSError if the identity file cannot be written.
        """
        with self._mutex:
            if self.joined and read_identity(self.path).get("nonce") == self.nonce:
                self._liveness = liveness
                self._identify(self.path)

    def _identify(self, path: str) -> None:
        identity = {"nonce": self.nonce, **self._liveness.identity()}
        write_whole(os.path.join(path, "identity"), json.dumps(identity).encode())

    def leave(self) -> None:
        """End this process's part; the last one removes the directory. Idempotent."""
        with self._mutex:
            if not self.joined:
                return
            self.joined = False
            try:
                self._exit()
                left = _remove_if_left(self.path, self._liveness, self._held_fd)
                if left and self._reaper is not None:
                    self._reaper.dismiss()
                    self._reaper = None
            finally:
                self._let_go()

    def _exit(self) -> None:
        fd, self._presence_fd = self._presence_fd, -1
        if fd < 0:
            return
        try:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, f"p-{self.writer}"))
        finally:
            # Not only closed: a child that is being started may have the file.
            with suppress(OSError):  # a file system without locks
                unlock(fd)
            os.close(fd)

    def _let_go(self) -> None:
        fd, self._held_fd = self._held_fd, -1
        if fd >= 0:
            os.close(fd)

    @staticmethod
    def sweep(root: str, liveness: Liveness) -> list[str]:
        """Remove this user's sessions in *root* that have no participants any more.

        Returns the removed directories. Sessions of another *liveness* stay; *root*
        need not exist.
        """
        return swept(own_directories(root), partial(_sweep, liveness=liveness))

    def __repr__(self) -> str:
        return f"<DirectorySession {self.path}>"


def sweep_at_end(root: str) -> None:
    """Remove the sessions in *root* without participants when this process ends.

    Only sessions of one host. The last process to end removes a session. A killed
    process cannot; for most workers it is the process that started them. A session that
    another thread is just removing is waited for; what is left, another process
    removes.
    """
    _roots.add(root)
    call_at_end(_end)


def _end() -> None:
    try:
        with removing:
            pass  # in another thread, which would not live to finish it
        for session in list(_taken_part):
            session.leave()
        for root in list(_roots):
            DirectorySession.sweep(root, OneHost())
    except Exception:  # the next session sweeps
        logger.debug("Could not sweep %s", _roots, exc_info=True)


def _sweep(path: str, liveness: Liveness) -> bool:
    if is_hidden(path):
        liveness.clear(path)
    return _remove_if_left(path, liveness)


def _remove_if_left(path: str, liveness: Liveness, held: int = -1) -> bool:
    """Remove a session without participants, its directory on disk first."""
    with liveness.claim(path, held) as claimed:
        if claimed is None:
            return False
        nonce = read_identity(claimed).get("nonce")
        with suppress(OSError, ValueError):  # `sweep_spills` removes it later
            remove_spill(read_own(os.path.join(claimed, "spill")).decode(), nonce)
        remove_whole(claimed, liveness.last)
        return True
