"""Rules about bytes and views: readers see the bytes that were put, and keep them."""

from __future__ import annotations

import array
import pickle
from typing import Any

from daskref.connectors.base import Connector
from daskref.testing.contract.expectations import LARGE, expect, expect_bytes, pattern


def round_trips(connector: Connector) -> None:
    """Expect the bytes that were put, for all sizes and kinds."""
    for nbytes in (0, 1, 7, 4095, 4096, 4097, 1_000_003, LARGE, LARGE + 13):
        value = pattern(nbytes, nbytes % 251)
        kinds = {"bytes": value, "bytearray": bytearray(value)}
        kinds["a read-only view"] = memoryview(value)
        for kind, obj in kinds.items() if nbytes < LARGE else [("bytes", value)]:
            key = connector.put(obj)
            what = f"{nbytes} bytes put as {kind}"
            expect(isinstance(key, tuple), f"{what}: the key is not a tuple")
            expect(pickle.loads(pickle.dumps(key)) == key, "keys do not pickle")
            expect(connector.exists(key), f"{what}: exists returns False")
            expect_bytes(connector, key, value, what)
            connector.evict(key)


def frames(connector: Connector) -> None:
    """Expect the frames of an object joined, for all formats."""
    doubles: Any = array.array("d", range(1000))
    matrix = memoryview(bytes(range(24))).cast("B", (4, 6))
    empty = memoryview(array.array("I"))
    frames = [b"head", doubles, b"", bytearray(3), matrix, empty]
    frames.append(memoryview(b"tail")[1:])
    value = b"".join(bytes(memoryview(frame)) for frame in frames)
    key = connector.put_frames(frames)
    expect_bytes(connector, key, value, "frames of several formats")
    expect_bytes(connector, connector.put_frames([]), b"", "no frames")
    many = [bytes([i % 256]) * (i % 5) for i in range(3000)]
    expect_bytes(connector, connector.put_frames(many), b"".join(many), "3000 frames")
    large: list[Any] = [pattern(LARGE // 2 + 1, 1), doubles, pattern(LARGE // 2 + 5, 2)]
    value = b"".join(bytes(memoryview(frame)) for frame in large)
    expect_bytes(connector, connector.put_frames(large), value, "large frames")


def keeps_no_frame(connector: Connector) -> None:
    """Expect that put copies: later changes of the source have no effect."""
    for nbytes in (100, LARGE):
        source = bytearray(pattern(nbytes))
        key = connector.put(source)
        source[:] = bytes(nbytes)
        expect_bytes(connector, key, pattern(nbytes), "a source changed after put")
        source.append(0)  # fails while someone holds the buffer


def views_outlive(connector: Connector) -> None:
    """Expect that evicting an object does not change a reader's view."""
    for nbytes in (5000, LARGE):
        value = pattern(nbytes, 1)
        key = connector.put(value)
        view = expect_bytes(connector, key, value, "an object")
        connector.evict(key)
        expect(view == value, "evicting changes what a reader holds")
        others = [connector.put(pattern(nbytes, seed)) for seed in range(2, 5)]
        expect(view == value, "a later put changes what a reader of an evicted holds")
        part = view[100:200]
        del view
        for other in others:
            connector.evict(other)
        connector.put(pattern(nbytes, 6))
        expect(part == value[100:200], "a slice of an evicted object changes")


def private(connector: Connector) -> None:
    """Expect that no other reader sees writes to a reader's view."""
    for nbytes in (100, LARGE):
        value = pattern(nbytes)
        key = connector.put(value)
        mine = expect_bytes(connector, key, value, "an object")
        if not mine.readonly:
            mine[:50] = b"x" * 50
            mine[-1] = mine[-1] ^ 1
        expect_bytes(connector, key, value, "an object that another reader wrote to")
