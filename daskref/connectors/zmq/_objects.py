"""Objects of a session, on this host and on others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from daskref.connectors.base import Buffer, Key
from daskref.connectors.buffers import raw
from daskref.connectors.files.connector import checked
from daskref.connectors.files.session import new_name
from daskref.connectors.shm.connector import SharedMemoryKey
from daskref.connectors.zmq._remote import Remote
from daskref.connectors.zmq._session import ZmqSession
from daskref.connectors.zmq._wire import Op
from daskref.exceptions import ConnectorUnavailableError, WireError

_HOST = re.compile("[0-9a-f]{32}")


class ZmqKey(NamedTuple):
    """Key of an object in the shared memory of one of several hosts."""

    #: Unique in the session: 8 hexadecimal digits of its writer, 24 of its own.
    name: str
    #: Size of the object in bytes.
    nbytes: int
    #: Identity of the host on which it was put.
    host: str


def checked_key(key: Key) -> ZmqKey:
    """Return a key, which may be a plain tuple: it is one after a message of Dask's.

    Raises
    ------
    WireError
        If it is not one that daskref made.
    """
    if isinstance(key, tuple) and type(key) in (tuple, ZmqKey) and len(key) == 3:
        name, nbytes = checked(key[:2], SharedMemoryKey)
        host_is_one = isinstance(key[2], str) and _HOST.fullmatch(key[2])
        if host_is_one and nbytes >= 0:
            return ZmqKey(name, nbytes, key[2])
    raise WireError(f"{key!r} is not a ZmqKey that daskref made")


def short(key: ZmqKey) -> SharedMemoryKey:
    """Return the key of the same object in any host's shared memory."""
    return SharedMemoryKey(key.name, key.nbytes)


class ZmqObjects:
    """Looks on this host first; :class:`ZmqConnector` says what the methods do.

    Parameters
    ----------
    host
        Identity of this host.
    session
        This process's part in the session, with this host's store.
    remote
        The other hosts.
    """

    def __init__(self, host: str, session: ZmqSession, remote: Remote) -> None:
        self._host = host
        self._session = session
        self._remote = remote

    def _stays_here(self) -> bool:
        """Tell whether others can read what is put on this host, or nobody could."""
        if self._session.serves or not self._remote.takers:
            return True
        return self._session.is_served()

    def put(self, frames: Sequence[Buffer]) -> ZmqKey:
        """Store one object here, or send it to a host where others can read it."""
        local = self._session.ready()
        if self._stays_here():
            name, nbytes = local.put_frames(frames)
            return ZmqKey(name, nbytes, self._host)
        views = [raw(frame) for frame in frames]
        name = new_name(local.session.writer)
        host = self._remote.push(views, name)
        return ZmqKey(name, sum(view.nbytes for view in views), host)

    def supply(self, key: Key, frames: Sequence[Buffer] | None) -> str | None:
        """Have an object that others lack where they can read it, and say where."""
        key = checked_key(key)
        local = self._session.ready()
        if self._session.is_served():
            if frames is not None and not local.exists(short(key)):
                local.set_frames(short(key), frames)
            return self._host if local.exists(short(key)) else None
        if frames is None:
            found = local.get(short(key))
            if found is None:
                return None
            frames = [found]
        return self._remote.push([raw(frame) for frame in frames], key.name)

    def get(self, key: Key) -> memoryview | None:
        """Return an object, fetched to this host if it was not here."""
        key = checked_key(key)
        found = self._session.ready().get(short(key))
        return self._remote.fetch(key) if found is None else found

    def exists(self, key: Key) -> bool:
        """Tell whether the object is anywhere."""
        key = checked_key(key)
        here = self._session.ready().exists(short(key))
        return here or self._remote.any_has(key, Op.EXISTS)

    def evict(self, keys: Iterable[Key]) -> None:
        """Delete objects, and their copies, from all hosts."""
        local, found = self._session.ready(), [checked_key(key) for key in keys]
        local.evict_batch(map(short, found))
        self._remote.evict(found)

    def take(self, key: Key) -> memoryview | None:
        """Return an object and delete it everywhere, for one caller of all."""
        key = checked_key(key)
        local = self._session.ready()
        if key.host == self._host:
            view = local.take(short(key))
        else:
            view = self.get(key)
            if view is not None:
                mine = self._remote.take(key)
                local.evict(short(key))
                view = view if mine else None
        if view is not None:
            # It is nobody else's by now: an error would lose it.
            with suppress(ConnectorUnavailableError):
                self._remote.evict([key])
        return view

    def link(self, key: Key) -> ZmqKey | None:
        """Give what is on this host another name, if others can read it here."""
        key = checked_key(key)
        local = self._session.ready()
        new = local.link(short(key)) if self._stays_here() else None
        return None if new is None else ZmqKey(new[0], new[1], self._host)

    def renew(self, key: Key, seconds: float) -> bool:
        """Let the object's lease end in *seconds*, here and where it was put."""
        key = checked_key(key)
        here = self._session.ready().renew(short(key), seconds)
        if key.host == self._host:
            return here
        return self._remote.any_has(key, Op.RENEW, max(0, int(seconds * 1000))) or here
