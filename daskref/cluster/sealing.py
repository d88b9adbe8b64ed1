"""Client settings that Dask's log must not show.

Dask logs the arguments of requests, but no answers. The scheduler therefore returns a
random pad in an answer, and the client encrypts its request with that pad. On the
network, Dask's own TLS protects both.
"""

from __future__ import annotations

import hashlib
import pickle
import secrets
from dataclasses import dataclass
from typing import Any

from zict import LRU

from daskref.background import make_lock

#: Pads that were given out and are not used yet, by name; the last ones.
_pads: LRU[str, bytes] = LRU(256, {})
_lock = make_lock()


@dataclass(repr=False, slots=True)
class Sealed:
    """An encrypted pickle whose content neither ``repr`` nor its own pickle shows."""

    #: Of the pad.
    name: str
    data: bytes

    def __repr__(self) -> str:
        return "<Sealed>"


def give_pad() -> tuple[str, bytes]:
    """Return name and bytes of a new pad, for one object sent to this process."""
    name, pad = secrets.token_hex(8), secrets.token_bytes(32)
    with _lock:
        _pads[name] = pad
    return name, pad


def seal(obj: Any, name: str, pad: bytes) -> Sealed:
    """Encrypt an object with a pad from :func:`give_pad` of the receiving process."""
    return Sealed(name, _combined(pickle.dumps(obj), pad))


def unseal(obj: Any) -> Any:
    """Decrypt a :class:`Sealed` object; return any other object unchanged.

    Raises LookupError if the pad was used before, or is not from this process.
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
