"""Rules about keys: gone, foreign, many at once, and made before their objects."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from daskref.connectors.base import Connector, DeferrableConnector, Key
from daskref.exceptions import ConnectorClosedError, WireError
from daskref.testing.contract.expectations import (
    expect,
    expect_bytes,
    expect_raises,
    pattern,
)


class _Stranger(NamedTuple):
    name: str
    nbytes: int


def keys(connector: Connector) -> None:
    """Expect a key of its own for every object."""
    keys = {connector.put(b"same") for _ in range(20)}
    expect(len(keys) == 20, "two objects have one key")


def missing(connector: Connector) -> None:
    """Expect ``None`` for an object that was evicted, once or twice."""
    key = connector.put(b"gone")
    for _ in range(2):
        connector.evict(key)
        expect(connector.get(key) is None, "get of an evicted object is not None")
        expect(not connector.exists(key), "an evicted object exists")


def plain_keys(connector: Connector) -> None:
    """Expect that a key works as a plain tuple."""
    key = connector.put(b"bytes")
    plain = tuple(key)
    expect(connector.exists(plain), "exists of the key as a plain tuple is False")
    expect_bytes(connector, plain, b"bytes", "the key as a plain tuple")
    connector.evict(plain)
    expect(not connector.exists(key), "evict of the key as a plain tuple does nothing")


def foreign_keys(connector: Connector) -> None:
    """Expect that the connector refuses keys of other kinds."""
    key = connector.put(b"ours")
    strange: list[Any] = [_Stranger("0" * 32, 4), ("a", 1), "text", None, 5, ()]
    if key and isinstance(key[0], str):
        outside = ["", None, "..", "a/b", "a\0b", "ä", "/etc/passwd", "../passwd"]
        strange += [type(key)._make((name, *key[1:])) for name in outside]  # type: ignore[attr-defined]
    for foreign in strange:
        for name in ("get", "exists", "evict"):
            call = partial(getattr(connector, name), foreign)
            expect_raises(WireError, f"{name}({foreign!r})", call)
    expect_bytes(connector, key, b"ours", "an object beside foreign keys")


def batches(connector: Connector) -> None:
    """Expect that batches do what single calls do."""
    values = [pattern(n, n) for n in (0, 10, 70_000)]
    keys = connector.put_batch(values)
    expect(len(set(keys)) == 3, "put_batch does not return one key per object")
    found = connector.get_batch(keys)
    expect(
        [None if v is None else bytes(v) for v in found] == values,
        "get_batch returns other objects than put_batch put",
    )
    connector.evict(keys[1])
    missing = connector.get_batch(keys)
    expect([v is None for v in missing] == [False, True, False], "get_batch of a gap")
    connector.evict_batch([*keys, keys[0]])
    expect(not any(map(connector.exists, keys)), "evict_batch leaves objects")


def new_key(connector: Connector) -> Key | None:
    """Return the key of a later object; ``None`` if the store cannot defer."""
    try:
        return (
            connector.new_key() if isinstance(connector, DeferrableConnector) else None
        )
    except NotImplementedError:
        return None


def defers(connector: Connector) -> None:
    """Expect that a key that was made first gets its object later."""
    if new_key(connector) is None or not isinstance(connector, DeferrableConnector):
        return
    keys = [connector.new_key() for _ in range(3)]
    expect(len(set(keys)) == 3, "new_key returns a key twice")
    for key in keys:
        expect(connector.get(key) is None, "get of a key that is not set is not None")
        expect(not connector.exists(key), "a key that is not set exists")
        connector.evict(key)
    for key, value in zip(keys, [b"", b"small", pattern(2_000_003, 7)], strict=True):
        source = bytearray(value)
        connector.set(tuple(key), source)
        source[:5] = b"other"[: len(source)]
        expect(connector.exists(key), "what was set does not exist")
        expect_bytes(connector, key, value, "what was set")
        connector.evict(key)
        expect(connector.get(key) is None, "what was set and evicted is there")
    key = connector.new_key()
    connector.set_frames(key, [b"a", b"", pattern(70_000)])
    expect_bytes(connector, key, b"a" + pattern(70_000), "frames that were set")
    if (linked := connector.link(key)) is not None:
        expect_bytes(connector, linked, b"a" + pattern(70_000), "a link of it")
    strange: list[Any] = [_Stranger("0" * 32, 4), ("a", 1), "text", None, ()]
    for foreign in strange:
        expect_raises(
            WireError, f"set({foreign!r})", partial(connector.set, foreign, b"x")
        )
    closed = connector.new_key()
    connector.close()
    expect_raises(ConnectorClosedError, "new_key after close", connector.new_key)
    expect_raises(
        ConnectorClosedError, "set after close", partial(connector.set, closed, b"x")
    )
