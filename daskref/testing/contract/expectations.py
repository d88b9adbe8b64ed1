"""Expectations of the rules, in the words of failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daskref.connectors.base import Connector, Key

#: Size in bytes of objects that connectors treat as large.
LARGE = 32 * 2**20


def expect(condition: object, message: str) -> None:
    """Raise :class:`AssertionError` with *message* unless *condition* is true."""
    if not condition:
        raise AssertionError(message)


def expect_raises(
    kind: type[BaseException], what: str, call: Callable[[], Any]
) -> None:
    """Call, and expect an exception of *kind*; *what* names the call."""
    try:
        result = call()
    except kind:
        return
    except Exception as exc:
        raise AssertionError(
            f"{what} raises {exc!r} instead of {kind.__name__}"
        ) from exc
    raise AssertionError(f"{what} returns {result!r:.100} and does not raise {kind}")


def pattern(nbytes: int, seed: int = 0) -> bytes:
    """Return bytes that differ by position and by seed."""
    block = bytes((seed * 37 + i * 7 + i // 251) % 256 for i in range(4099))
    return (block * (nbytes // len(block) + 1))[:nbytes]


def expect_bytes(connector: Connector, key: Key, value: bytes, what: str) -> memoryview:
    """Get an object, and expect *value*; return the view of it."""
    found = connector.get(key)
    if found is None:
        raise AssertionError(f"get returns None for {what}")
    view = memoryview(found)
    expect(view.ndim == 1 and view.format == "B", f"{what}: not a buffer of bytes")
    expect(view.nbytes == len(value), f"{what}: {view.nbytes} bytes, not {len(value)}")
    expect(view == value, f"{what}: other bytes than were put")
    return view
