"""Keys of objects on one of several hosts."""

from __future__ import annotations

import re
from typing import NamedTuple

from daskref.connectors.base import Key
from daskref.connectors.files.names import checked
from daskref.connectors.shm.connector import SharedMemoryKey
from daskref.exceptions import WireError

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
