"""Objects <-> the stored layout."""

from __future__ import annotations

import array
import pickle
import struct
from typing import Any

import msgpack
import numpy as np
import pandas as pd
import pytest
from distributed.protocol import register_serialization
from distributed.protocol.serialize import dask_deserialize, dask_serialize

from daskref.exceptions import NotProxiableError, WireError
from daskref.objects.codec import ALIGNMENT, MAGIC, VERSION, decode, encode

PRELUDE = struct.Struct("<8sHHIQQ")


def stored(obj: Any) -> bytearray:
    """Return what a connector would hold: writable, as a mapping is."""
    return bytearray(b"".join(encode(obj).frames))


OBJECTS = [
    None,
    1,
    "text",
    b"",
    b"x" * 100_000,
    bytearray(b"y" * 1000),
    [1, [2.5, {"a": (None, True)}]],
    {1, 2},
    array.array("d", range(1000)),
    range(10),
]
ARRAYS = [
    np.arange(10),
    np.empty(0),
    np.array(3.5),
    np.ones((3, 4, 5), dtype="f4", order="F"),
    np.arange(100)[::3],
    np.arange(4, dtype=">i8"),
    np.array(["a", "bc"], dtype=object),
    np.array([("x", 1)], dtype=[("name", "U4"), ("n", "i8")]),
    np.array(["2020-01-01"], dtype="M8[ns]"),
]


@pytest.mark.parametrize("obj", OBJECTS, ids=repr)
def test_objects_come_back(obj: Any) -> None:
    again = decode(stored(obj))
    assert type(again) is type(obj)
    assert again == obj


@pytest.mark.parametrize("obj", ARRAYS, ids=lambda x: f"{x.dtype}{x.shape}")
def test_arrays_come_back(obj: Any) -> None:
    again = decode(stored(obj))
    assert again.dtype == obj.dtype
    np.testing.assert_array_equal(again, obj)


@pytest.mark.parametrize(
    "obj",
    [
        [np.arange(3.0), np.arange(5)],
        (np.arange(3.0), 1, "x"),
        {"x": np.arange(3.0), "y": {"z": [np.arange(2)]}},
        {1: np.arange(3.0), (2, 3): None},
    ],
    ids=lambda x: type(x).__name__,
)
def test_collections_of_arrays_come_back(obj: Any) -> None:
    again = decode(stored(obj))
    assert type(again) is type(obj)
    assert str(again) == str(obj)


def test_frames_come_back() -> None:
    frame = pd.DataFrame({"n": range(1000), "s": ["text"] * 1000})
    pd.testing.assert_frame_equal(decode(stored(frame)), frame)


def test_encoding_copies_nothing_large() -> None:
    x = np.arange(100_000)
    frames = encode(x).frames
    assert any(
        np.shares_memory(np.frombuffer(frame, "u1"), x)
        for frame in frames
        if memoryview(frame).nbytes == x.nbytes
    )


def test_decoding_copies_nothing() -> None:
    data = stored(np.arange(100_000))
    assert np.shares_memory(decode(data), np.frombuffer(data, "u1"))


@pytest.mark.parametrize("writable", [True, False])
def test_as_writable_as_the_original(writable: bool) -> None:
    x = np.arange(1000)
    x.flags.writeable = writable
    assert decode(stored(x)).flags.writeable is writable
    assert decode(bytes(stored(x))).flags.writeable is writable


def test_frames_are_aligned_and_sizes_add_up() -> None:
    value = {"a": np.ones(10_001, "u1"), "b": np.ones(777), "c": b"x" * 10_000}
    encoded = encode(value)
    frames = encoded.frames
    assert encoded.nbytes == sum(memoryview(frame).nbytes for frame in frames)
    position = 0
    for frame in frames:
        if memoryview(frame).nbytes in (10_001, 777 * 8):
            assert position % ALIGNMENT == 0
        position += memoryview(frame).nbytes


def test_a_longer_buffer_is_fine() -> None:
    # a segment that was written again may be longer than what is in it
    assert decode(stored([1, 2]) + bytes(100)) == [1, 2]


class Registered:
    """A class that a user has registered with Dask."""

    def __init__(self, way: str) -> None:
        self.way = way


class Derived(Registered):
    pass


def test_what_users_have_registered_is_serialized_that_way() -> None:
    register_serialization(
        Registered,
        lambda obj: ({}, [obj.way.encode()]),
        lambda header, frames: Registered(f"{bytes(frames[0]).decode()}, registered"),
    )
    try:
        assert encode(Registered("a")).pickle is None
        assert decode(stored(Registered("a"))).way == "a, registered"
        assert decode(stored(Derived("a"))).way == "a"
        assert type(decode(stored(Derived("a")))) is Derived
    finally:
        del dask_serialize._lookup[Registered], dask_deserialize._lookup[Registered]


class Refuses:
    def __reduce__(self) -> Any:
        raise RuntimeError("no way to pickle this")


def test_what_does_not_serialize_says_why() -> None:
    with pytest.raises(NotProxiableError, match="no way to pickle this") as caught:
        encode(Refuses())
    assert caught.value.type_name == f"{__name__}.Refuses"
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 50, -1000, -1])
def test_truncated_objects_are_refused(length: int) -> None:
    data = stored(np.arange(1000))
    with pytest.raises(WireError, match="truncated"):
        decode(data[:length])


@pytest.mark.parametrize("data", [b"x" * 100, b"PK\x03\x04" * 100, bytes(1000)])
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="daskref did not write"):
        decode(data)


def test_a_newer_version_is_refused_and_says_what_to_do() -> None:
    data = stored(1)
    struct.pack_into("<H", data, len(MAGIC), VERSION + 1)
    with pytest.raises(WireError, match="use the same daskref on all processes"):
        decode(data)


def damaged(meta: Any, frames: bytes = b"") -> bytes:
    packed = meta if isinstance(meta, bytes) else msgpack.dumps(meta)
    total = PRELUDE.size + len(packed) + len(frames)
    return PRELUDE.pack(MAGIC, VERSION, 0, len(packed), total, 0) + packed + frames


@pytest.mark.parametrize(
    "meta",
    [
        b"\xc1",
        b"",
        {},
        [],
        {"header": {}},
        {"header": {"serializer": "pickle"}, "lengths": [10**9]},
        {"header": {"serializer": "pickle"}, "lengths": [-5]},
        {"header": {"serializer": "pickle"}, "lengths": ["ten"]},
        {"header": {"serializer": "pickle"}, "lengths": None},
        {"header": {"serializer": "nobody's"}, "lengths": []},
        {"header": 5, "lengths": []},
    ],
    ids=repr,
)
def test_a_damaged_header_is_refused(meta: Any) -> None:
    with pytest.raises(WireError):
        decode(damaged(meta))


def test_a_header_that_is_longer_than_the_object_is_refused() -> None:
    data = PRELUDE.pack(MAGIC, VERSION, 0, 10**6, PRELUDE.size + 5, 0) + b"12345"
    with pytest.raises(WireError, match="truncated"):
        decode(data)


def test_damaged_frames_are_refused() -> None:
    data = stored(list(range(1000)))
    data[-20:] = bytes(20)  # the end of the pickle
    with pytest.raises(WireError, match="damaged"):
        decode(data)


def explode() -> None:
    raise ZeroDivisionError("the user's own")


class Explodes:
    def __reduce__(self) -> Any:
        return explode, ()


def test_errors_of_the_users_own_classes_stay_what_they_are() -> None:
    data = stored(Explodes())
    with pytest.raises(ZeroDivisionError, match="the user's own"):
        decode(data)


def test_the_layout_does_not_change_by_accident() -> None:
    # readers of version 1 rely on it
    encoded = encode([1])
    frames, nbytes = encoded.frames, encoded.nbytes
    magic, version, flags, packed, total, reserved = PRELUDE.unpack(frames[0])
    assert (magic, version, flags, reserved) == (b"\x89daskref", 1, 0, 0)
    assert total == nbytes
    assert len(frames[1]) == packed
    meta = msgpack.loads(frames[1])
    assert meta["header"]["serializer"] == "pickle"
    assert meta["lengths"] == [memoryview(frames[-1]).nbytes]
    assert pickle.loads(frames[-1]) == [1]
