"""Sameness by content."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from daskref.objects.codec import encode


def read_only(x: Any) -> Any:
    x.flags.writeable = False
    return x


ARRAYS = {
    "zeros": np.zeros(6),
    "ones": np.ones(6),
    "shape": np.zeros((2, 3)),
    "order": np.zeros((2, 3), order="F"),
    "dtype": np.zeros(6, "f4"),
    "as many bytes": np.zeros(6, "i8"),
    "byte order": np.zeros(6, ">f8"),
    "read-only": read_only(np.zeros(6)),
    "empty": np.empty(0),
    "empty, other type": np.empty(0, "f4"),
    "empty, other shape": np.empty((0, 3)),
    "scalar": np.array(0.0),
    "reversed": np.arange(6.0)[::-1],
    "objects": np.array(["a", None], dtype=object),
    "other objects": np.array(["a", 1], dtype=object),
    "text": np.array(["a", "b"]),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "dates of another unit": np.array(["2020-01-01"], "M8[ns]"),
    "records": np.zeros(2, [("a", "i4"), ("b", "f8")]),
}


def test_what_differs_has_another_token() -> None:
    tokens = {name: encode(x).token for name, x in ARRAYS.items()}
    assert len(set(tokens.values())) == len(tokens)


@pytest.mark.parametrize("name", ARRAYS)
def test_equal_content_has_the_same_token(name: str) -> None:
    x = ARRAYS[name]
    again = x.copy(order="K")
    again.flags.writeable = x.flags.writeable
    if x.flags.c_contiguous or x.flags.f_contiguous:
        assert encode(again).token == encode(x).token
    assert encode(x).token == encode(x).token


def test_one_changed_element_changes_the_token() -> None:
    x = np.zeros(100_000)
    before = encode(x).token
    x[-1] = np.nextafter(0, 1)
    assert encode(x).token != before
    x[-1] = 0
    assert encode(x).token == before


def test_a_view_is_its_content() -> None:
    x = np.arange(100.0)
    assert encode(x[10:20]).token == encode(np.arange(10.0, 20.0)).token


def test_hashing_copies_nothing() -> None:
    import tracemalloc

    x = np.zeros(1 << 20)
    y = np.zeros((1 << 10, 1 << 10), order="F")
    tracemalloc.start()
    try:
        assert encode(x).token
        assert encode(y).token
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes // 10


class Marked(np.ndarray):
    """A subclass, which may have more to it than its memory."""


def test_subclasses_are_not_taken_for_arrays() -> None:
    assert encode(np.zeros(6).view(Marked)).token != encode(np.zeros(6)).token


@pytest.mark.parametrize("make", [list, tuple, set, bytes, bytearray, str])
def test_other_types(make: Any) -> None:
    assert encode(make()).token == encode(make()).token
    assert encode(make()).token != encode(np.empty(0)).token


def test_frames() -> None:
    frame = pd.DataFrame({"a": np.arange(100), "s": ["x"] * 100})
    assert encode(frame).token == encode(frame.copy()).token
    other = frame.copy()
    other.loc[5, "a"] = -1
    assert encode(frame).token != encode(other).token


@pytest.mark.slow
def test_the_same_in_every_process() -> None:
    out = subprocess.run(
        [
            *[sys.executable, "-c"],
            "import numpy as np; from daskref.objects.codec import encode\n"
            "print(encode(np.arange(1000.)).token, encode({'a': [1, 'x']}).token)",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    ours = [encode(np.arange(1000.0)).token, encode({"a": [1, "x"]}).token]
    assert out.split() == ours


def text(values: Any) -> Any:
    return pd.Series(values, dtype="str")


def arrow(n: int = 1000) -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.table({"x": range(n), "s": [f"s{i % 7}" for i in range(n)]})


SLICED = {
    "text": lambda: [
        text([f"s{i}" for i in range(1000)]).iloc[part].reset_index(drop=True)
        for part in (slice(500), slice(500, None))
    ],
    "tables": lambda: [arrow().slice(0, 500), arrow().slice(500)],
    "tables of one": lambda: (
        lambda table: [table.slice(0, 500), table.slice(500), table.slice(0, 499)]
    )(arrow()),
    "arrays of one": lambda: (
        lambda column: [column.chunk(0).slice(0, 7), column.chunk(0).slice(7, 7)]
    )(arrow()["x"]),
    "structs": lambda: (
        lambda pa: [
            pa.StructArray.from_arrays([pa.array(range(10)).slice(n, 5)], ["x"])
            for n in (0, 5)
        ]
    )(pytest.importorskip("pyarrow")),
    "transposed": lambda: (lambda x: [x[:, ::2], x[:, ::2].T])(
        np.arange(8.0).reshape(2, 4)
    ),
    "joined alike": lambda: [
        np.array(["a-b", "c"], dtype=object),
        np.array(["a", "b-c"], dtype=object),
        np.array(["ab", "-c"], dtype=object),
    ],
    "joined alike, in frames": lambda: [
        pd.DataFrame({"s": np.array(names, dtype=object)})
        for names in (["a-b", "c"], ["a", "b-c"])
    ],
    "columns of blocks": lambda: [
        pd.DataFrame({"a": [1], "b": [2.0]}),
        pd.DataFrame({"a": [2.0], "b": [1]})[["a", "b"]],
    ],
    "names": lambda: [pd.Series([1], name="a"), pd.Series([1], name="b")],
    "attributes": lambda: (lambda frame: [frame, _with_attribute(frame)])(
        pd.DataFrame({"a": [1]})
    ),
}


def _with_attribute(frame: Any) -> Any:
    frame = frame.copy()
    frame.attrs["unit"] = "m"
    return frame


@pytest.mark.parametrize("name", SLICED)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": (1, x)}])
def test_what_dask_takes_for_the_same_is_told_apart(name: str, wrap: Any) -> None:
    tokens = [encode(wrap(x)).token for x in SLICED[name]()]
    assert len(set(tokens)) == len(tokens)


@dataclasses.dataclass
class Holder:
    held: Any


def test_parts_of_dataclasses_are_told_apart() -> None:
    first, second = map(Holder, SLICED["text"]())
    assert encode(first).token != encode(second).token
    assert encode(first).token == encode(Holder(SLICED["text"]()[0])).token


@pytest.mark.parametrize(
    "use",
    [
        lambda frame: frame["s"],
        lambda frame: frame.loc[3],
        lambda frame: frame.sort_values("x"),
        lambda frame: frame.groupby("s").sum(),
        lambda frame: frame.index.is_unique,
        lambda frame: frame.set_index("x").loc[5],
        lambda frame: hash(frame["s"].iloc[0]),
    ],
)
@pytest.mark.parametrize("dtype", ["str", object])
def test_use_does_not_change_the_token_of_a_frame(use: Any, dtype: Any) -> None:
    frame = pd.DataFrame({"x": np.arange(100), "s": ["one", "two"] * 50})
    frame["s"] = frame["s"].astype(dtype)
    before = encode(frame).token
    use(frame)
    assert encode(frame).token == before


def test_chunks_of_text_are_not_joined() -> None:
    import tracemalloc

    pa = pytest.importorskip("pyarrow")
    frame = pd.concat([pd.DataFrame({"s": text(["text"] * 100_000)})] * 3)
    assert frame["s"].array._pa_array.num_chunks == 3
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    tracemalloc.start()
    try:
        assert encode(frame).token
        _, traced = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pa.total_allocated_bytes() == before
    assert pa.default_memory_pool().max_memory() == peak
    assert traced < 1 << 20


def test_objects_that_contain_themselves() -> None:
    loop: list[Any] = [np.zeros(3)]
    loop.append(loop)
    assert isinstance(encode(loop).token, str)
