"""Factories that count, and the targets of the two tables of the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections import namedtuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from daskref.objects.reference import describe


class Factory:
    """Returns a value and counts; knows its metadata if told so."""

    def __init__(self, value, known=True, token=None):
        self.value = value
        self.calls = 0
        if known:
            self.metadata = describe(value, 10**9, token)

    def __call__(self):
        self.calls += 1
        return self.value


def fail():
    """Stand for a store that lost the object."""
    raise KeyError("gone")


@dataclasses.dataclass
class Point:
    x: int
    y: int


Pair = namedtuple("Pair", "a b")


class Plain:
    """Has nothing but an attribute."""

    def __init__(self):
        self.x = 1

    def __repr__(self):
        return "Plain()"

    def __eq__(self, other):
        return isinstance(other, Plain) and self.x == other.x

    __hash__ = None


class Context:
    __repr__ = Plain.__repr__

    def __eq__(self, other):
        return isinstance(other, Context)

    __hash__ = None

    def __enter__(self):
        return "entered"

    def __exit__(self, *exc):
        return exc[0] is KeyError


class AsyncContext:
    async def __aenter__(self):
        return "entered"

    async def __aexit__(self, *exc):
        return exc[0] is KeyError


class Texts:
    """Truth, bytes, formats and rounds in its own way."""

    __repr__ = Plain.__repr__

    def __eq__(self, other):
        return isinstance(other, Texts)

    __hash__ = None

    def __bool__(self):
        return False

    def __bytes__(self):
        return b"own"

    def __format__(self, spec):
        return f"own {spec}"

    def __round__(self, digits=None):
        return ("round", digits)

    def __index__(self):
        return 2

    def __fspath__(self):
        return "/own"


def double(x, *, add=0):
    """Return twice as much."""
    return 2 * x + add


async def coroutine(x):
    await asyncio.sleep(0)
    return x + 1


async def agen():
    yield 1
    yield 2


@contextlib.contextmanager
def managed():
    yield "managed"


#: Makes a fresh target; the same each time.
TARGETS = {
    "ndarray": lambda: np.arange(12.0).reshape(3, 4),
    "ndarray0": lambda: np.array(3),
    "scalar": lambda: np.float64(2.5),
    "frame": lambda: pd.DataFrame({"a": [1, 2, 3], "b": [1.5, 2.5, 3.5]}),
    "series": lambda: pd.Series([3, 1, 2], name="s"),
    "index": lambda: pd.Index([1, 2, 3]),
    "table": lambda: pa.table({"a": [1, 2, 3]}),
    "polars": lambda: pl.DataFrame({"a": [1, 2, 3]}),
    "list": lambda: [3, 1, 2],
    "tuple": lambda: (3, 1, 2),
    "pair": lambda: Pair(1, 2),
    "set": lambda: {1, 2, 3},
    "frozenset": lambda: frozenset({1, 2}),
    "dict": lambda: {"a": 1, "b": 2},
    "str": lambda: "12",
    "bytes": lambda: b"abc",
    "int": lambda: 7,
    "bool": lambda: True,
    "float": lambda: 2.5,
    "complex": lambda: 1 + 2j,
    "none": lambda: None,
    "point": lambda: Point(1, 2),
    "plain": Plain,
    "texts": Texts,
    "path": lambda: pathlib.PurePosixPath("/a/b"),
    "function": lambda: double,
    "class": lambda: Point,
    "context": Context,
    "coroutine": lambda: coroutine(1),
}
