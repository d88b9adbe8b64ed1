"""How values are pickled whose own way would copy them, or lose something."""

from __future__ import annotations

import itertools
import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from daskref.objects.codec import decode, encode
from daskref.objects.pickling import IN_BAND, Pickle, pickled
from daskref.objects.reducers import _reducers, reducers


def arrive(obj: Any) -> Any:
    """Return what comes out of a store that maps its objects."""
    return decode(bytearray(b"".join(encode(obj).frames)))


def out_of_band(obj: Any) -> int:
    """Return how many bytes are not copied into the pickle."""
    made = pickled(obj)
    assert sum(map(len, made.pieces)) < 20_000
    return sum(buffer.raw().nbytes for buffer in made.buffers)


def read_only(x: Any) -> Any:
    x.flags.writeable = False
    return x


ARRAYS = {
    "numbers": np.arange(10_000.0),
    "Fortran's order": np.asfortranarray(np.arange(10_000.0).reshape(100, 100)),
    "strided": np.arange(20_000.0).reshape(100, 200)[:, ::2],
    "reversed": np.arange(10_000.0)[::-1],
    "dates": np.arange(10_000).astype("M8[s]"),
    "durations": np.arange(10_000).astype("m8[ms]").reshape(100, 100).T,
    "records": np.zeros(5000, [("a", "f8"), ("t", "M8[s]")]),
    "aligned records": np.zeros(5000, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "void": np.zeros(5000, "V16"),
    "text": np.array(["text"] * 5000),
    "other byte order": np.arange(10_000, dtype=">i8"),
    "with metadata": np.zeros(10_000, np.dtype("f8", metadata={"unit": "m"})),
    "read-only": read_only(np.arange(10_000.0)),
    "read-only dates": read_only(np.arange(10_000).astype("M8[s]")),
    "matrix": np.arange(10_000.0).reshape(100, 100).view(np.matrix),
    "recarray": np.zeros(5000, [("a", "f8"), ("b", "i8")]).view(np.recarray),
    "chararray": np.array(["text"] * 5000).view(np.char.chararray),
    "axes swapped": np.arange(6000.0).reshape(10, 20, 30).transpose(0, 2, 1),
    "dates, axes swapped": np.zeros((10, 20, 30), "M8[s]").transpose(1, 0, 2),
    "scalar": np.array(5.0),
    "dates, none": np.empty((0, 5), "M8[D]"),
    "of no bytes": np.zeros(1000, "S0"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_and_are_not_copied(name: str) -> None:
    x = ARRAYS[name]
    again = arrive(x)
    assert type(again) is type(x)
    assert (again.dtype, again.shape) == (x.dtype, x.shape)
    assert again.dtype.metadata == x.dtype.metadata
    assert again.dtype.isalignedstruct == x.dtype.isalignedstruct
    assert again.tobytes() == x.tobytes()
    flags = [(y.flags.writeable, y.flags.f_contiguous) for y in (x, again)]
    if x.flags.forc:
        assert flags[0] == flags[1]
    if x.nbytes > IN_BAND:
        assert out_of_band(x) == x.nbytes
    plain = pickle.loads(pickle.dumps(x, 5))
    assert type(plain) is type(again)
    if name != "dates, axes swapped":  # their order is kept here
        assert plain.flags.c_contiguous == again.flags.c_contiguous


def test_a_memmap_comes_back_as_one(tmp_path: Any) -> None:
    np.arange(10_000.0).tofile(tmp_path / "data")
    x: Any = np.memmap(tmp_path / "data", "f8", "r", shape=(100, 100))
    again = arrive(x)
    plain = pickle.loads(pickle.dumps(x))
    assert type(again) is type(plain) is np.memmap
    assert (again.filename, again.offset) == (plain.filename, plain.offset)
    np.testing.assert_array_equal(again, x)
    assert out_of_band(x) == x.nbytes


def test_a_broadcast_array_is_not_written_out() -> None:
    x = np.broadcast_to(np.arange(1000.0), (100_000, 1000))
    assert encode(x).nbytes < 20_000
    again = arrive(x)
    assert (again.shape, again.strides) == (x.shape, x.strides)
    assert not again.flags.writeable
    np.testing.assert_array_equal(again[::50_000], x[::50_000])


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("mask", [np.ma.nomask, np.arange(1000) % 2 == 0])
@pytest.mark.parametrize("value", [None, -1.0])
def test_masked_arrays(mask: Any, hard: bool, value: Any) -> None:
    x = np.ma.array(np.arange(1000.0), mask=mask, hard_mask=hard, fill_value=value)
    again = arrive(x)
    assert type(again) is np.ma.MaskedArray
    assert (again.mask is np.ma.nomask) is (x.mask is np.ma.nomask)
    assert (again.hardmask, again.fill_value) == (hard, x.fill_value)
    assert again.tolist() == x.tolist()
    again[1] = np.ma.masked
    assert out_of_band(x) == x.nbytes


class Quantity(np.ndarray):
    """A subclass that pickles its unit."""

    unit: Any

    def __new__(cls, values: Any, unit: Any = None) -> Any:
        made = np.asarray(values).view(cls)
        made.unit = unit
        return made

    def __array_finalize__(self, obj: Any) -> None:
        self.unit = getattr(obj, "unit", None)

    def __reduce__(self) -> Any:
        function, args, state = super().__reduce__()
        return function, args, (state, self.unit)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.unit = state[1]


def test_subclasses_of_users_pickle_as_they_say() -> None:
    again = arrive(Quantity(np.arange(1000.0), "m"))
    assert (type(again), again.unit, again[-1]) == (Quantity, "m", 999)


class TestObjects:
    """Arrays of objects."""

    def repeated(self, n: int = 100_000, order: Any = "C") -> Any:
        words = [f"word {i}" for i in range(10)] + [None]  # type: ignore[list-item]
        array = np.empty((n // 10, 10), object, order=order)
        array.reshape(-1, order="A")[:] = [words[i * 7 % 11] for i in range(n)]
        return array

    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("by_pandas", [False, True])
    def test_what_is_repeated_is_pickled_once(
        self, order: Any, by_pandas: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not by_pandas:
            monkeypatch.delitem(__import__("sys").modules, "pandas")
        x = self.repeated(order=order)
        assert encode(x).nbytes < 2 * x.size
        again = arrive(x)
        assert again.flags.f_contiguous is x.flags.f_contiguous
        assert (again == x).all()
        assert len({*map(id, again.flat)}) == 11

    def test_which_elements_are_one_object_stays(self) -> None:
        lists = [[i] for i in range(3)]
        array = np.empty(1000, object)
        for i in range(1000):
            array[i] = lists[i % 3]
        array[7] = array
        again, first = arrive([array, lists[0]])
        assert again[0] is again[999] is first
        assert again[7] is again
        assert again[1] == again[4] == [1]

    @pytest.mark.parametrize(
        "x",
        [
            np.array([str(i) for i in range(1000)], object),
            np.array([[i] for i in range(300)] + [None], object),
            np.empty(1000, object),
            np.array([1, "a", None], object),
            np.array([("a", 1)] * 500, [("name", "O"), ("n", "i8")]),
            np.array(["a", "b"] * 500, object)[::2],
        ],
        ids=["distinct", "lists", "empty", "few", "fields", "strided"],
    )
    def test_others(self, x: Any) -> None:
        again = arrive(x)
        assert (again.dtype, again.shape) == (x.dtype, x.shape)
        assert again.tolist() == x.tolist()


VIEWS = {
    "bytes": memoryview(b"x" * 5000),
    "writable": memoryview(bytearray(5000)),
    "numbers": memoryview(bytes(8000)).cast("d"),
    "two dimensions": memoryview(bytes(8000)).cast("i", (20, 100)),
    "of an array": memoryview(np.arange(5000.0).reshape(50, 100)),
    "Fortran's order": memoryview(np.arange(5000.0).reshape(50, 100).T),
    "strided": memoryview(np.arange(5000))[::2],
    "records": memoryview(np.zeros(300, [("a", "i4"), ("b", "f8")])),
    "other byte order": memoryview(np.zeros(300, ">i4")),
    "empty": memoryview(b""),
    "empty numbers": memoryview(b"").cast("d"),
    "none of many": memoryview(np.zeros((0, 5))),
    "scalar": memoryview(np.array(1.5)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_come_back(name: str) -> None:
    view = VIEWS[name]
    again = arrive(view)
    assert type(again) is memoryview
    assert (again.readonly, again.itemsize) == (view.readonly, view.itemsize)
    assert again.tobytes() == view.tobytes()
    if name != "none of many":
        assert again.shape == view.shape
    if name not in ("other byte order", "records"):
        assert again.format == view.format


class TestArrow:
    @pytest.mark.parametrize(
        "array",
        [
            pa.array(range(100_000)),
            pa.array([f"s{i}" for i in range(100_000)]),
            pa.array([[i, None] for i in range(100_000)]),
            pa.array([{"a": i, "b": str(i)} for i in range(100_000)]),
            pa.array(["a", "b", None] * 30_000).dictionary_encode(),
            pa.array([None if i % 3 else i for i in range(100_000)]),
            pa.array([b"x" * (i % 5) for i in range(100_000)], pa.large_binary()),
            pa.array([i % 2 == 0 for i in range(100_000)]),
        ],
        ids=lambda array: str(array.type)[:20],
    )
    def test_a_slice_comes_without_what_it_was_cut_from(self, array: Any) -> None:
        part = array.slice(1001, 500)
        for each in (part, pa.chunked_array([part, array.slice(5, 7)])):
            again = arrive(each)
            assert type(again) is type(each)
            assert again.type == each.type
            assert again.equals(each)
            assert encode(each).nbytes < 40_000
        whole = arrive(array)
        assert whole.equals(array)

    def test_tables_keep_chunks_and_metadata(self) -> None:
        table = pa.table({"a": range(10_000)}).replace_schema_metadata({"unit": "m"})
        table = pa.concat_tables([table, table.slice(0, 10)])
        again = arrive(table)
        assert again.equals(table, check_metadata=True)
        assert again.column("a").num_chunks == 2

    def test_text_of_pandas_is_not_joined(self) -> None:
        frame = pd.DataFrame({"s": [f"s{i}" for i in range(10_000)]})
        frame = pd.concat([frame] * 3)
        frame.attrs["unit"] = "m"
        again = arrive(frame)
        pd.testing.assert_frame_equal(again, frame)
        assert again.attrs == frame.attrs
        assert again["s"].array._pa_array.num_chunks == 3
        again.loc[5, "s"] = "other"

    def test_other_arrow_columns_of_pandas(self) -> None:
        series = pd.Series([1, None, 3] * 1000, dtype="int64[pyarrow]", name="n")
        pd.testing.assert_series_equal(arrive(series), series)


class TestTorch:
    torch: Any

    @pytest.fixture(autouse=True)
    def _import(self) -> None:
        self.torch = pytest.importorskip("torch")

    def test_a_tensor_is_not_copied(self) -> None:
        x = self.torch.arange(10_000.0).reshape(100, 100).T
        again = arrive(x)
        assert self.torch.equal(again, x)
        assert again.stride() == x.stride()
        assert out_of_band(x) == 40_000
        again += 1

    def test_views_of_one_storage_stay_views(self) -> None:
        x = self.torch.zeros(1000)
        again, part = arrive([x, x[10:20]])
        again[10] = 5
        assert part[0] == 5

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "bool", "complex64"])
    def test_types_that_numpy_lacks(self, dtype: str) -> None:
        x = self.torch.ones(1000).to(getattr(self.torch, dtype))
        again = arrive(x)
        assert again.dtype == x.dtype
        assert self.torch.equal(again, x)

    def test_models(self) -> None:
        model = self.torch.nn.Sequential(
            self.torch.nn.Linear(100, 100), self.torch.nn.BatchNorm1d(100)
        )
        model[0].bias = self.torch.nn.Parameter(model[0].bias, requires_grad=False)
        again = arrive(model)
        assert type(again[0].weight) is self.torch.nn.Parameter
        assert [p.requires_grad for p in again.parameters()] == [
            *[True, False, True, True]
        ]
        for a, b in zip(
            again.state_dict().values(), model.state_dict().values(), strict=True
        ):
            assert self.torch.equal(a, b)
        assert encode(model).token == encode(model).token == encode(again).token
        again(self.torch.ones(3, 100)).sum().backward()

    def test_a_gradient_is_kept(self) -> None:
        x = self.torch.ones(1000, requires_grad=True)
        (x * 3).sum().backward()
        assert arrive(x).grad[0] == 3
        assert arrive(x * 2).grad_fn is None

    def test_nothing_is_lost_of_what_is_empty_or_sparse(self) -> None:
        for x in (self.torch.empty(0), self.torch.eye(100).to_sparse()):
            again = arrive(x)
            assert again.shape == x.shape
            assert again.layout == x.layout


def test_large_text_and_bytes_are_written_where_they_lie() -> None:
    parts: Any = [b"x" * 200_000, bytearray(200_000), "y" * 200_000]
    made = pickled({"parts": parts})
    pieces = [piece for piece in made.pieces if len(piece) >= 200_000]
    assert pieces[0] is parts[0]
    assert pieces[1] is parts[1]
    assert arrive({"parts": parts}) == {"parts": parts}


def test_what_has_no_module_goes_by_value() -> None:
    class Local:
        x = 1

    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("class Main:\n    x = 2\n", scope)
    assert arrive(Local()).x == 1
    assert arrive(scope["Main"]()).x == 2
    assert arrive([b"__main__" * 100, "x"])[1] == "x"
    assert arrive(lambda: 5)() == 5


def test_what_goes_by_value_is_not_copied_either() -> None:
    class Local:
        dates = np.arange(10_000).astype("M8[s]")

        def __init__(self) -> None:
            self.masked = np.ma.zeros(10_000)
            self.repeated = np.array(["a", "b"] * 5000, object)

    made = pickled(Local())
    assert sum(map(len, made.pieces)) < 10_000
    assert out_of_band(Local()) == 80_000 + 10_000 + 80_000


def test_nothing_keeps_an_object_alive_that_was_pickled() -> None:
    import gc
    import weakref

    class Thing:
        pass

    gc.disable()
    try:
        thing = Thing()
        made: Any = pickled(thing)
        ref = weakref.ref(thing)
        assert isinstance(made, Pickle)
        del thing, made
        assert ref() is None
    finally:
        gc.enable()


def test_the_table_of_numpy_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = _reducers.__wrapped__(True, False, False, False)
    kinds = {cls.__name__ for cls in table}
    assert kinds >= {"ndarray", "matrix", "recarray", "memmap", "chararray"}


def test_the_table_is_of_exact_types() -> None:
    assert reducers()[np.ndarray]
    assert Quantity not in reducers()
    assert reducers() is reducers()


def test_arrays_of_results_are_contiguous() -> None:
    x = np.arange(6000.0).reshape(10, 20, 30)
    broadcast = np.broadcast_to(x, (5, *x.shape))
    sent = [x.transpose(0, 2, 1), x[::-1], x.T, broadcast]
    again = decode(bytearray(b"".join(encode(sent, result=True).frames)))
    assert all(map(np.array_equal, again, sent))
    assert [a.flags.c_contiguous for a in again] == [True, True, False, False]
    assert again[2].flags.f_contiguous
    assert again[3].strides[0] == 0
    swapped = decode(bytearray(b"".join(encode(sent[0]).frames)))  # an argument
    assert not swapped.flags.forc


@pytest.mark.parametrize("dtype", ["f8", ">i4", "M8[s]", "c16", "S3", "V5"])
@pytest.mark.parametrize("result", [False, True])
def test_arrays_with_axes_in_any_order(dtype: str, result: bool) -> None:
    nbytes = 5 * 6 * 7 * 8 * np.dtype(dtype).itemsize
    data = np.resize(np.arange(251, dtype="u1"), nbytes).view(dtype)
    x = data.reshape(5, 6, 7, 8)
    for axes in itertools.permutations(range(x.ndim)):
        assert_arrives(x.transpose(axes), result)
        assert_arrives(x[:, :1].transpose(axes), result)
        assert_arrives(x[::-1, :, ::2].transpose(axes), result)


def assert_arrives(x: Any, result: bool) -> None:
    again = decode(bytearray(b"".join(encode(x, result=result).frames)))
    assert (again.shape, again.dtype) == (x.shape, x.dtype)
    assert again.tobytes() == x.tobytes()
