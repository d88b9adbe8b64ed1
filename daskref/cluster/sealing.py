"""What a client sends to the scheduler and nobody may read in Dask's log.

Dask logs requests, at level ``debug`` all of them and at ``warning`` those that fail,
with their arguments; it logs no answers. So the scheduler gives out a random pad in an
answer, and the client's request is sealed with it. That keeps secrets out of logs; on
the network it is Dask's own encryption that does.
"""

from __future__ import annotations

import hashlib
import pickle
import secrets
from typing import Any

from zict import LRU

from daskref.background import make_lock

#: Pads that were given out and are not used yet, by name; the last ones.
_pads: LRU[str, bytes] = LRU(256, {})
_lock = make_lock()


class Sealed:
    """An object that shows neither in its ``repr`` nor in what it pickles to.

    Parameters
    ----------
    name
        Of the pad.
    data
        The object, pickled and sealed.
    """

    __slots__ = ("data", "name")

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data

    def __repr__(self) -> str:
        return "<Sealed>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Sealed, (self.name, self.data)


def give_pad() -> tuple[str, bytes]:
    """Return a new pad and its name, for one object that will be sent here."""
    name, pad = secrets.token_hex(8), secrets.token_bytes(32)
    with _lock:
        _pads[name] = pad
    return name, pad


def seal(obj: Any, name: str, pad: bytes) -> Sealed:
    """Seal an object with a pad from :func:`give_pad` of the process that opens it."""
    return Sealed(name, _combined(pickle.dumps(obj), pad))


def unseal(obj: Any) -> Any:
    """Return what was sealed with a pad of this process; anything else as it is.

    Raises LookupError if it was unsealed before, or the pad was not given out here.
    """
    if type(obj) is not Sealed:
        return obj
    with _lock:
        pad = _pads.pop(obj.name)
    return pickle.loads(_combined(obj.data, pad))


def _combined(data: bytes, pad: bytes) -> bytes:
    stream = hashlib.shake_256(pad).digest(len(data))
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return mixed.to_bytes(len(data), "big")
