"""Which objects are large leaves."""

from __future__ import annotations

import array
from collections import OrderedDict, deque, namedtuple
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from daskref.leaves import leaf_nbytes, sizer_of
from daskref.proxy import Proxy

Pair = namedtuple("Pair", "a b")


class Text(str):
    __slots__ = ()


class Numbers(list):
    pass


class Model:
    def __init__(self) -> None:
        self.weights = np.zeros(1000)


class Sized:
    """Says how large it is; Dask has no rule for it."""

    nbytes = 10**9


class DuckArray:
    """An array of some other library."""

    nbytes = 8000
    dtype = "float64"


@pytest.mark.parametrize(
    ("obj", "nbytes"),
    [
        (np.zeros(1000), 8000),
        (np.zeros((10, 100), "f4"), 4000),
        (np.zeros(100).view(np.matrix), 800),
        (b"x" * 1000, 1000),
        (bytearray(1000), 1000),
        ("x" * 1000, 1000),
        (Text("x" * 1000), 1000),
        (memoryview(np.zeros((10, 10))), 800),
        (array.array("d", bytes(800)), 800),
        (DuckArray(), 8000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_leaves_have_the_size_of_their_buffers(obj: Any, nbytes: int) -> None:
    assert leaf_nbytes(obj) == nbytes


@pytest.mark.parametrize(
    "obj",
    [
        pd.DataFrame({"a": np.zeros(1000)}),
        pd.Series(np.zeros(1000)),
        pd.Index(np.arange(1000.0)),
        pa.table({"a": np.zeros(1000)}),
        pa.chunked_array([np.zeros(1000)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_leaves_that_dask_sizes(obj: Any) -> None:
    assert 8000 <= leaf_nbytes(obj) < 100_000


@pytest.mark.parametrize(
    "obj",
    [
        [np.zeros(1000)],
        (np.zeros(1000),),
        Pair(np.zeros(1000), 1),
        {"x": np.zeros(1000)},
        OrderedDict(x=np.zeros(1000)),
        {b"x" * 1000},
        Numbers([np.zeros(1000)]),
        deque([np.zeros(1000)]),
        Model(),
        Sized(),
        np.ndarray,
        Model,
        len,
        lambda: None,
        1,
        None,
        range(10**9),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_parts_is_no_leaf(obj: Any) -> None:
    assert leaf_nbytes(obj) == 0


def test_collections_are_no_leaves() -> None:
    assert leaf_nbytes(da.zeros(10**9)) == 0
    assert leaf_nbytes(dask.delayed(len)("x")) == 0


def test_a_proxy_is_no_leaf_and_is_not_resolved() -> None:
    def fail() -> Any:
        raise AssertionError

    assert leaf_nbytes(Proxy(fail)) == 0
    resolved: Any = Proxy(lambda: np.zeros(1000))
    assert resolved.nbytes == 8000
    assert leaf_nbytes(resolved) == 0


def test_only_so_many_classes_are_kept() -> None:
    # notebooks define a class again and again
    assert sizer_of.cache_info().maxsize in range(1, 10_000)
