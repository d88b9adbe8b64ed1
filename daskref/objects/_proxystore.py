"""Objects that ProxyStore's ``Store`` wrote.

It begins each with two letters for how it was serialized, and a line's end. What came
by ProxyStore's own store is read by its own code, where that is installed.
"""

from __future__ import annotations

from typing import Any

from daskref.connectors.base import Buffer
from daskref.exceptions import WireError

_BEGINNINGS = frozenset({b"BS\n", b"CP\n", b"NP\n", b"PD\n", b"PK\n", b"PL\n", b"US\n"})


def is_proxystores(buffer: Buffer) -> bool:
    """Tell whether bytes begin as those that ProxyStore's store writes."""
    return bytes(memoryview(buffer)[:3]) in _BEGINNINGS


def read_proxystores(buffer: Buffer) -> Any:
    """Return an object that ProxyStore's store wrote. Copies.

    Raises
    ------
    WireError
        If ProxyStore is not installed here, or cannot read it.
    """
    try:
        from proxystore.serialize import SerializationError, deserialize
    except ImportError as exc:
        raise WireError(
            "ProxyStore's Store wrote the object, and to read it ProxyStore has to be "
            f"installed: `pip install proxystore` ({exc})"
        ) from exc
    try:
        return deserialize(bytes(buffer))
    except SerializationError as exc:
        raise WireError(
            f"the bytes begin as what ProxyStore's Store writes, but ProxyStore cannot "
            f"read them ({exc.__cause__ or exc!r})"
        ) from exc
