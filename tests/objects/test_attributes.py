"""What a reference answers is what the fetched object would."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from daskref.objects.attributes import ANSWERED, MAX_COLUMNS, ROOM, learn, recall
from daskref.objects.codec import decode, encode
from daskref.objects.reference import Metadata, Reference, StoreConfig, describe
from daskref.proxy import Proxy, extract, is_resolved, resolve
from tests.support.proxy_cases import TARGETS, Factory
from tests.support.proxy_operations import same
from tests.support.proxy_quiet import METADATA, ask


class Frame:
    """Whose columns can be changed through what it returns, and shape not trusted."""

    ndim = 2
    nbytes = 12
    shape = (np.int64(3), 1)

    def __init__(self) -> None:
        self.columns = ["a"]
        self.name = "n" * (ROOM + 1)
        self.dtype = object()

    @property
    def size(self) -> int:
        raise RuntimeError("not today")

    def height(self) -> int:
        return 1


class Fresh:
    """Whose columns are made for everyone who asks."""

    @property
    def columns(self) -> list[str]:
        return ["a", "b"]


class Subclass(np.ndarray[Any, Any]):
    @property
    def size(self) -> int:  # type: ignore[override]
        return -1


def many(n: int) -> pd.DataFrame:
    return pd.DataFrame({f"column {i}": [1.0] for i in range(n)})


OBJECTS = {
    **{
        f"array {dtype}": np.zeros((2, 3), dtype)
        for dtype in (
            "f4",
            ">f8",
            "?",
            "c16",
            "M8[ns]",
            "m8[3s]",
            "S3",
            "U5",
            "O",
            "f2",
        )
    },
    "array of records": np.zeros(3, [("a", "i4"), ("b", "f4", (2,))]),
    "array of strings": np.array(["a", "b"], np.dtypes.StringDType()),
    "array with metadata": np.zeros(3, np.dtype("f8", metadata={"unit": "m"})),
    "array in Fortran's order": np.zeros((3, 4), order="F"),
    "array 0": np.array(1.0),
    "empty array": np.zeros((0, 3)),
    "masked array": np.ma.masked_array([1.0, 2.0], [True, False]),
    "subclass": np.zeros(3).view(Subclass),
    "scalar": np.float64(1.5),
    "frame": pd.DataFrame({"a": [1], "b": [2.5]}),
    "frame of numbers": pd.DataFrame(np.zeros((2, 3))),
    "frame with names": pd.DataFrame({"a": [1]}).rename_axis(columns="which"),
    "frame with levels": pd.DataFrame({("a", 1): [1], ("a", 2): [2]}),
    "frame that hides attributes": pd.DataFrame(
        {
            name: [1, 2]
            for name in ("dtype", "height", "name", "nbytes", "size", "shape")
        }
    ),
    "series": pd.Series([1, 2], name="s"),
    "series with a tuple": pd.Series([1, 2], name=("a", 1)),
    "series of strings": pd.Series(["a", "b"]),
    "series of categories": pd.Series(["a", "b"], dtype="category"),
    "series of times": pd.Series(pd.date_range("2020", periods=2, tz="UTC")),
    "series of objects": pd.Series([None, {}]),
    "index": pd.Index([1.5, 2.5], name="i"),
    "range": pd.RangeIndex(5),
    "levels": pd.MultiIndex.from_tuples([(1, "a"), (2, "b")]),
    "table": pa.table({"a": [1, None], "b": ["x", "y"]}),
    "slice of a table": pa.table({"a": list(range(1000))}).slice(3, 9),
    "polars": pl.DataFrame({"a": [1], "b": ["x"]}),
    "polars series": pl.Series("s", [1, 2]),
    "list": [1, 2],
    "text": "text",
    "class": Frame,
    "fresh": Fresh(),
    "mutable": Frame(),
}


def fetched(obj: Any) -> Any:
    return decode(b"".join(bytes(frame) for frame in encode(obj).frames))


@pytest.mark.parametrize("name", OBJECTS)
def test_answers_are_those_of_the_fetched_object(name: str) -> None:
    obj = OBJECTS[name]
    metadata = pickle.loads(pickle.dumps(describe(obj, 100)))
    there = fetched(obj)
    for attribute in sorted(ANSWERED):
        try:
            answer = metadata.answer(attribute)
        except LookupError:
            continue
        real = getattr(there, attribute)
        assert type(answer) is type(real), attribute
        assert same(answer, real), attribute


def known(obj: Any) -> set[str]:
    metadata = describe(obj, 100)
    found = set()
    for attribute in ANSWERED:
        try:
            metadata.answer(attribute)
        except LookupError:
            continue
        found.add(attribute)
    return found


def test_what_is_known() -> None:
    array = {"shape", "dtype", "ndim", "size", "itemsize", "nbytes"}
    assert known(OBJECTS["array f4"]) == known(OBJECTS["array of records"]) == array
    assert known(OBJECTS["frame"]) == {"shape", "ndim", "size", "columns"}
    assert known(OBJECTS["series"]) == {*array, "name"} - {"itemsize"}
    assert known(OBJECTS["table"]) == {
        *("shape", "num_rows", "num_columns", "column_names")
    }
    assert known(OBJECTS["polars"]) == {"shape", "height", "width", "columns"}
    assert known(OBJECTS["fresh"]) == {"columns"}
    assert known([1]) == known("text") == set()


def test_what_would_not_last_is_not_known() -> None:
    assert known(OBJECTS["mutable"]) == {"ndim"}
    assert "name" not in known(OBJECTS["class"])


def test_a_fresh_list_for_everyone_who_asks() -> None:
    metadata = describe(Fresh(), 100)
    metadata.answer("columns").append("c")
    assert metadata.answer("columns") == ["a", "b"]


def test_wide_frames_are_not_described() -> None:
    assert "columns" in known(many(MAX_COLUMNS // 2))
    assert "columns" not in known(many(MAX_COLUMNS + 1))
    long = pd.DataFrame({"x" * ROOM: [1]})
    assert "columns" not in known(long)
    assert "size" in known(long)


@pytest.mark.parametrize("name", OBJECTS)
def test_references_stay_small(name: str) -> None:
    config = StoreConfig("name", "module:Class", (("path", "/nowhere"),))
    ref = Reference(("key", 1), config, describe(OBJECTS[name], 100))
    assert len(pickle.dumps(ref)) < 600 + ROOM


def test_an_array_is_as_small_as_its_shape_and_type() -> None:
    full = describe(np.zeros((3, 4)), 96)
    bare = Metadata(
        full.type_name, full.type_pickle, 96, length=3, shape=(3, 4), dtype="float64"
    )
    assert len(pickle.dumps(full)) == len(pickle.dumps(bare))


def test_learning_changes_and_keeps_nothing() -> None:
    frame = many(3)
    before = frame.copy()
    learn(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert frame.columns is frame.columns


def test_a_type_that_is_not_here_is_not_known() -> None:
    with pytest.raises(LookupError):
        recall((("dtype", b"cno_such\nthing\n."),), "dtype")


# Through a proxy


@pytest.mark.parametrize("question", METADATA)
def test_proxies_answer_without_fetching(question: str) -> None:
    for kind in METADATA[question]:
        factory = Factory(TARGETS[kind]())
        p = Proxy(factory)
        answer, real = ask(p, question), ask(factory.value, question)
        assert same(answer, real), kind
        assert factory.calls == 0, kind
        assert not is_resolved(p)


def test_a_resolved_proxy_answers_from_its_target() -> None:
    factory = Factory(pd.DataFrame({"a": [1]}))
    p = Proxy(factory)
    assert p.shape == (1, 1)
    p["b"] = 2
    assert p.shape == (1, 2)
    assert list(p.columns) == ["a", "b"]
    q = Proxy(Factory(pd.Series([1])))
    assert q.name is None
    q.name = "changed"  # writing resolves
    assert q.name == "changed"


def test_what_is_not_known_is_fetched() -> None:
    for obj, attribute in (
        (many(MAX_COLUMNS + 1), "columns"),
        (pa.table({"a": [1]}), "nbytes"),
        (Frame(), "columns"),
    ):
        factory = Factory(obj)
        p = Proxy(factory)
        assert getattr(p, attribute) is not None
        assert factory.calls == 1


def test_a_name_that_the_type_lacks_is_looked_for_on_the_target() -> None:
    factory = Factory([1])
    p = Proxy(factory)
    with pytest.raises(AttributeError, match="'list' object has no attribute 'shape'"):
        p.shape  # noqa: B018
    assert factory.calls == 1


def test_nothing_is_answered_of_which_nothing_is_known() -> None:
    factory = Factory(np.zeros(3), known=False)
    p = Proxy(factory)
    assert p.shape == (3,)
    assert factory.calls == 1
    resolve(p)
    assert extract(p) is factory.value
