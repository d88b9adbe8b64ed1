"""Sameness by content."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from daskref.tokens import content_token


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
    "strided": np.zeros(12)[::2],
    "reversed": np.arange(6.0)[::-1],
    "objects": np.array(["a", None], dtype=object),
    "other objects": np.array(["a", 1], dtype=object),
    "text": np.array(["a", "b"]),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "dates of another unit": np.array(["2020-01-01"], "M8[ns]"),
    "records": np.zeros(2, [("a", "i4"), ("b", "f8")]),
}


def test_what_differs_has_another_token() -> None:
    tokens = {name: content_token(x) for name, x in ARRAYS.items()}
    assert len(set(tokens.values())) == len(tokens)


@pytest.mark.parametrize("name", ARRAYS)
def test_equal_content_has_the_same_token(name: str) -> None:
    x = ARRAYS[name]
    again = x.copy(order="K")
    again.flags.writeable = x.flags.writeable
    if x.flags.c_contiguous or x.flags.f_contiguous:
        assert content_token(again) == content_token(x)
    assert content_token(x) == content_token(x)


def test_one_changed_element_changes_the_token() -> None:
    x = np.zeros(100_000)
    before = content_token(x)
    x[-1] = np.nextafter(0, 1)
    assert content_token(x) != before
    x[-1] = 0
    assert content_token(x) == before


def test_a_view_is_its_content() -> None:
    x = np.arange(100.0)
    assert content_token(x[10:20]) == content_token(np.arange(10.0, 20.0))


def test_hashing_copies_nothing() -> None:
    import tracemalloc

    x = np.zeros(1 << 20)
    y = np.zeros((1 << 10, 1 << 10), order="F")
    tracemalloc.start()
    try:
        content_token(x)
        content_token(y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes // 10


class Marked(np.ndarray):
    """A subclass, which may have more to it than its memory."""


def test_subclasses_are_not_taken_for_arrays() -> None:
    assert content_token(np.zeros(6).view(Marked)) != content_token(np.zeros(6))


@pytest.mark.parametrize("make", [list, tuple, set, bytes, bytearray, str])
def test_other_types(make: Any) -> None:
    assert content_token(make()) == content_token(make())
    assert content_token(make()) != content_token(np.empty(0))


def test_frames() -> None:
    frame = pd.DataFrame({"a": np.arange(100), "s": ["x"] * 100})
    assert content_token(frame) == content_token(frame.copy())
    other = frame.copy()
    other.loc[5, "a"] = -1
    assert content_token(frame) != content_token(other)


@pytest.mark.slow
def test_the_same_in_every_process() -> None:
    out = subprocess.run(
        [
            *[sys.executable, "-c"],
            "import numpy as np; from daskref.tokens import content_token\n"
            "print(content_token(np.arange(1000.)), content_token({'a': [1, 'x']}))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    ours = [content_token(np.arange(1000.0)), content_token({"a": [1, "x"]})]
    assert out.split() == ours
