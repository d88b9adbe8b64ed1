"""ProxyStore's functions from objects to bytes and back, by Dask's serialization."""

from __future__ import annotations

from typing import Any

from daskref.connectors.base import Buffer as BytesLike
from daskref.exceptions import SerializationError as SerializationError
from daskref.objects.codec import decode, encode


def serialize(obj: Any) -> bytes:
    """Return an object as bytes.

    Parameters
    ----------
    obj
        Anything that Dask can send.

    Raises
    ------
    SerializationError
        If it cannot.
    """
    return b"".join(encode(obj).frames)


def deserialize(buffer: BytesLike) -> Any:
    """Return the object that :func:`serialize` made bytes of.

    Parameters
    ----------
    buffer
        The bytes. Unpickles: only from those whom you trust.

    Raises
    ------
    SerializationError
        If they are something else.
    ValueError
        If they are no bytes.
    """
    if not is_bytes_like(buffer):
        raise ValueError(f"deserialize() takes bytes, not {type(buffer).__name__}")
    return decode(buffer)


def is_bytes_like(obj: Any) -> bool:
    """Tell whether an object is ``bytes``, a ``bytearray`` or a ``memoryview``."""
    return isinstance(obj, bytes | bytearray | memoryview)


__all__ = [
    "BytesLike",
    "SerializationError",
    "deserialize",
    "is_bytes_like",
    "serialize",
]
