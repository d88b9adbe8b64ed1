"""A session in a store of fsspec's, and its participants.

A bucket has no locks. Each participant has an object that says until when it counts as
alive, and a thread that renews the object. A participant that was killed, or paused for
longer, is gone one lease after that, because clocks may differ by as much; on the same
host it is gone at once. A process that starts a session removes those whose
participants are all gone.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any

from daskref.background import Background, forget_in_child, make_lock
from daskref.connectors.credentials import mask
from daskref.connectors.fsspec._blobs import PART, Blobs
from daskref.connectors.processes import has_ended, load_record, this_process
from daskref.exceptions import ConnectorUnavailableError

logger = logging.getLogger(__name__)

SESSION = re.compile("daskref-[0-9a-f]{16}")
#: Name of an object: 8 digits of the writer, the time of the put, 16 digits of the
#: object, 8 of this copy.
NAME = re.compile("[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]{8}")
PRESENCE = re.compile("p-([0-9a-f]{8})")
#: Prefixes of an object's name: its lease, its claim.
LEASE, CLAIM = "l-", "c-"
IDENTITY, PROBE = "identity", "probe"
#: Renewals of a participant's presence within a lease.
_RENEWALS = 3
#: Seconds to wait for a renewal that is under way.
_PATIENCE = 60.0
#: Presences read at once.
_ASKED = 16


def new_name(writer: str, id: str = "") -> str:
    """Return a name for a new object, or for a copy of the object with digits *id*."""
    now = int(time.time()) & 0xFFFFFFFF
    return f"{writer}-{now:08x}-{id or secrets.token_hex(8)}-{secrets.token_hex(4)}"


def timestamp(seconds: float) -> str:
    """Return a time as text of constant length.

    A process that reads an object while it is replaced sees another time, not another
    size.
    """
    return f"{seconds:020.6f}"


def _is_ours(name: str) -> bool:
    bare = PART.sub("", name).removeprefix(LEASE).removeprefix(CLAIM)
    return bool(
        bare in (IDENTITY, PROBE) or PRESENCE.fullmatch(bare) or NAME.fullmatch(bare)
    )


class ObjectStoreSession:
    """One process's part in a session.

    Raises ConnectorUnavailableError if there is no such session here.

    Parameters
    ----------
    name, nonce
        Of the session; ``None`` for a new one.
    lease
        Seconds for which a participant counts as alive without a renewal.
    shared
        Whether other processes can see the store.
    """

    name: str
    nonce: str
    #: 8 hexadecimal digits of this participant; new in a forked child.
    writer: str
    #: Whether the store can create an object only if there is none.
    exclusive: bool

    def __init__(
        self,
        blobs: Blobs,
        name: str | None,
        nonce: str | None,
        lease: float,
        shared: bool,
    ) -> None:
        new = name is None or nonce is None
        self._blobs = blobs
        self._lease = lease
        self._shared = shared
        self.name = name or f"daskref-{secrets.token_hex(8)}"
        self.nonce = nonce or secrets.token_hex(16)
        self._mutex = make_lock()
        self._background = Background(self._renew, "daskref-presence")
        self.forget()
        self.exclusive = False
        if not SESSION.fullmatch(self.name):
            raise ConnectorUnavailableError(repr(self), "this is no session's name")
        if new:
            self._make()
        else:
            self.ensure()

    def at(self, name: str) -> str:
        """Return the path of an object of the session."""
        return self._blobs.path(self.name, name)

    @property
    def directory(self) -> str:
        """Path of the session's objects."""
        return self._blobs.path(self.name)

    def _make(self) -> None:
        self._blobs.make_directory(self.directory)
        try:
            # First of all: a sweep removes sessions without participants.
            self._enter()
            self.exclusive = self._probe()
            process = {} if self._shared else this_process()
            identity = {"nonce": self.nonce, "exclusive": self.exclusive}
            self._put(IDENTITY, {**identity, "process": process})
        except BaseException:
            if self.writer:  # else the store cannot be reached, or not be written to
                try:
                    self._remove()
                except Exception as exc:
                    logger.debug("%r was not removed: %r", self, exc)
            raise
        self._start_renewing()

    def _probe(self) -> bool:
        """Tell whether the second of two writers of an object gets an error."""
        if not self._blobs.exclusive:
            return False
        path, data = self.at(PROBE), [memoryview(b"probe")]
        try:
            self._blobs.put(path, data, exclusive=True)
            self._blobs.put(path, data, exclusive=True)
        except FileExistsError:
            return True
        except (OSError, TypeError, ValueError, NotImplementedError) as exc:
            logger.debug("%r makes no objects exclusively: %r", self, exc)
        finally:
            self._blobs.delete([path])
        return False

    def ensure(self) -> None:
        """Join, unless this process has joined; raises as the constructor does."""
        if self._ended:
            raise self._has_ended()
        if self._joined:
            return
        with self._mutex:
            self._join()

    def _join(self) -> None:
        if self._joined:
            return
        identity = self._read(IDENTITY)
        if identity.get("nonce") != self.nonce:
            raise self._has_ended()
        if not self._shared and identity.get("process") != this_process():
            raise ConnectorUnavailableError(
                repr(self),
                "its objects are in the memory of another process. Only threads of "
                "one process share memory://; name a store that all processes see",
            )
        self.exclusive = bool(identity.get("exclusive"))
        self._enter()
        # After entering: a process that removes the session checks presences.
        if self._read(IDENTITY).get("nonce") != self.nonce:
            self._blobs.delete([self.at(f"p-{self.writer}")])
            self.writer = ""
            raise self._has_ended()
        self._start_renewing()

    def _has_ended(self) -> ConnectorUnavailableError:
        where = "another store" if self._shared else "the memory of another process"
        return ConnectorUnavailableError(
            repr(self),
            f"there is no such session here: it is of {where}, or has ended",
        )

    # Presence.

    def _enter(self) -> None:
        writer = secrets.token_hex(4)
        self._put_presence(writer)
        self.writer = writer
        forget_in_child(self)

    def _start_renewing(self) -> None:
        self._joined = True
        self._background.start(after=self._lease / _RENEWALS)

    def _put_presence(self, writer: str) -> None:
        self._put(
            f"p-{writer}",
            {
                "until": timestamp(time.time() + self._lease),
                "lease": self._lease,
                "process": this_process(),
            },
        )

    def _renew(self) -> float | None:
        writer = self.writer
        try:
            if self._read(IDENTITY).get("nonce") != self.nonce:
                # This process was paused for so long that it counted as dead.
                self._ended = True
                return None
            self._put_presence(writer)
        except Exception as exc:
            logger.debug("%r: the presence was not renewed: %r", self, exc)
        return self._lease / _RENEWALS

    def gone(self, writer: str) -> bool:
        """Tell whether the participant *writer* (8 digits) is known to be gone."""
        return writer != self.writer and self._gone(self.name, [writer])

    def _gone(self, session: str, writers: Iterable[str]) -> bool:
        """Tell whether all participants are gone."""
        left = sorted(writers)
        while left:
            asked, left = left[:_ASKED], left[_ASKED:]
            paths = [self._blobs.path(session, f"p-{writer}") for writer in asked]
            for found in self._blobs.get_many([(path, None) for path in paths]):
                if found is not None and not _is_gone(load_record(bytes(found))):
                    return False
        return True

    # The end.

    def leave(self) -> None:
        """End this process's part; the last one removes the session. Idempotent."""
        with self._mutex:
            self._background.stop(_PATIENCE)
            writer, self.writer = self.writer, ""
            try:
                if writer and not self._ended:
                    self._blobs.delete([self.at(f"p-{writer}")])
                    self._remove_if_left(self.name)
            except Exception as exc:
                logger.warning(
                    "%r was not left: what it stored stays until the next session at "
                    "this place sweeps it (%s)",
                    self,
                    mask(repr(exc)),
                )
            finally:
                self._ended = True
                self._blobs.close()

    def sweep(self) -> list[str]:
        """Remove the sessions at this URL whose participants are all gone.

        Returns their names. Errors are only logged: other sessions may not be this
        user's.
        """
        removed: list[str] = []
        try:
            found = [*filter(SESSION.fullmatch, self._blobs.directories())]
        except Exception as exc:
            logger.debug("%r did not sweep other sessions: %r", self, exc)
            return removed
        for name in found:
            try:
                if name != self.name and self._remove_if_left(name, other=True):
                    removed.append(name)
            except Exception as exc:
                logger.debug("%r did not sweep the session %s: %r", self, name, exc)
        return removed

    def _remove_if_left(self, session: str, other: bool = False) -> bool:
        names = set(self._blobs.sizes(self._blobs.path(session)))
        if (other and not names) or not self._all_gone(session, names):
            return False
        identity = self._blobs.path(session, IDENTITY)
        said = self._blobs.get(identity, None) if IDENTITY in names else None
        self._blobs.delete([identity])
        names = set(self._blobs.sizes(self._blobs.path(session)))
        if not self._all_gone(session, names):
            # 1. We saw nobody. 2. Another entered and read the identity. 3. We deleted.
            if said is not None:
                self._blobs.put(identity, [said])
            return False
        self._remove(session, names)
        return True

    def _all_gone(self, session: str, names: Iterable[str]) -> bool:
        found = [PRESENCE.fullmatch(name) for name in names]
        return self._gone(session, [match[1] for match in found if match])

    def _remove(self, session: str | None = None, names: Iterable[str] = ()) -> None:
        session = session or self.name
        directory = self._blobs.path(session)
        found = filter(_is_ours, list(names) or list(self._blobs.sizes(directory)))
        self._blobs.delete([self._blobs.path(session, name) for name in found])
        self._blobs.remove_directory(directory)

    def forget(self) -> None:
        """Take no part any more, in a forked child; the parent continues."""
        self.writer = ""
        self._joined = self._ended = False

    # Small objects.

    def _put(self, name: str, value: dict[str, Any]) -> None:
        self._blobs.put(self.at(name), [memoryview(json.dumps(value).encode())])

    def _read(self, name: str) -> dict[str, Any]:
        found = self._blobs.get(self.at(name), None)
        return load_record(bytes(found or b""))

    def __repr__(self) -> str:
        return f"<ObjectStoreSession {self.directory}>"


def _is_gone(presence: dict[str, Any]) -> bool:
    try:
        if has_ended(presence["process"]):
            return True
        return float(presence["until"]) + float(presence["lease"]) < time.time()
    except (KeyError, TypeError, ValueError):
        return False
