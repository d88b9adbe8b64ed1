"""How large values are, as far as that is known without serializing them."""

from __future__ import annotations

import array
import datetime
from collections import OrderedDict, deque, namedtuple
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from daskref.graph.literals import exact_nbytes, is_small, is_whole, on_gpu
from daskref.proxy import Proxy

Pair = namedtuple("Pair", "a b")


class Text(str):
    __slots__ = ()


class Numbers(list):
    pass


class Model:
    def __init__(self) -> None:
        self.weights = np.zeros(1000)


class Raises:
    """Says nothing about itself."""

    dtype = "float64"

    def _refuse(self, *args: Any) -> Any:
        raise RuntimeError("the user's own")

    nbytes = shape = property(_refuse)
    __len__ = __hash__ = __eq__ = __getattr__ = __bool__ = __sizeof__ = _refuse


class Lies:
    """Says that it is tiny, and in what unit nobody knows."""

    dtype = "float64"
    nbytes = "some"


@pytest.mark.parametrize(
    ("obj", "nbytes"),
    [
        (np.zeros(1000), 8000),
        (np.zeros((10, 100), "f4"), 4000),
        (np.float64(1), 8),
        (np.datetime64("2020"), 8),
        (b"x" * 1000, 1000),
        (bytearray(1000), 1000),
        ("x" * 1000, 1000),
        ("\u00e9" * 1000, 4000),
        (memoryview(np.zeros((10, 10))), 800),
        (array.array("d", bytes(800)), 800),
        (2**80_000 - 1, 10_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_some_types_say_how_many_bytes_they_hold(obj: Any, nbytes: int) -> None:
    assert exact_nbytes(obj) == nbytes
    assert is_small(obj, nbytes)
    assert not is_small(obj, nbytes - 1)


@pytest.mark.parametrize(
    "obj",
    [
        [np.zeros(1000)],
        (np.zeros(1000),),
        Pair(np.zeros(1000), 1),
        {"x": np.zeros(1000)},
        {np.float64(1): "x", "y" * 8000: 1},
        OrderedDict(x=np.zeros(1000)),
        {b"x" * 8000},
        Numbers([1]),
        deque([1]),
        Text("x"),
        np.zeros(1).view(np.matrix),
        np.ma.zeros(1),
        np.array([1, None]),
        np.zeros(1, [("a", "i4")]),
        np.zeros(1, np.dtype("f8", metadata={"unit": "m"})),
        pd.DataFrame({"a": [1]}),
        pa.table({"a": [1]}),
        Model(),
        Raises(),
        Lies(),
        np.ndarray,
        Model,
        lambda: None,
        da.zeros(10**9),
        dask.delayed(len)("x"),
        list(range(100)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_of_others_nothing_is_known(obj: Any) -> None:
    assert not is_small(obj, 1000)


def test_a_list_that_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert not is_small(loop, 1000)


def test_a_view_that_was_released_has_no_size() -> None:
    view = memoryview(b"x")
    view.release()
    assert exact_nbytes(view) is None


def test_a_proxy_is_not_resolved() -> None:
    def fail() -> Any:
        raise AssertionError

    assert exact_nbytes(Proxy(fail)) is None
    assert not is_small(Proxy(fail), 1000)
    assert not is_whole(type(Proxy(fail)))
    assert not on_gpu(Proxy(fail))


@pytest.mark.parametrize(
    "obj",
    [1, 1.5, None, "x", True, ..., range(10**9), [1, "x"], {"a": (1, {2})}, b"",
     np.zeros(10), datetime.datetime(2020, 1, 1), np.bool_(True), [[]]],
    ids=repr,
)  # fmt: skip
def test_small_values_are_known_to_be(obj: Any) -> None:
    assert is_small(obj, 1000)


def test_what_is_stored_as_a_whole() -> None:
    class Quantity(np.ndarray):
        pass

    for cls in (Quantity, np.matrix, pd.DataFrame, pd.Series, pa.Table, pa.Array):
        assert is_whole(cls)
    for cls in (list, str, Model, Pair, type(lambda: None), Raises):
        assert not is_whole(cls)


def test_only_so_many_classes_are_kept() -> None:
    # notebooks define a class again and again
    assert is_whole.cache_info().maxsize in range(1, 10_000)  # type: ignore[attr-defined]


def test_whether_memory_is_that_of_a_gpu_is_asked_of_the_object() -> None:
    class Here:
        @property
        def __cuda_array_interface__(self) -> Any:
            raise AttributeError("on the CPU")

    class There(Here):
        __cuda_array_interface__ = {"shape": (1,)}  # noqa: RUF012

    class NotNow(Here):
        @property
        def __cuda_array_interface__(self) -> Any:
            raise RuntimeError("needs grad")

    assert not on_gpu(np.zeros(3))
    assert not on_gpu(Here())
    assert on_gpu(There())
    assert on_gpu(NotNow())
