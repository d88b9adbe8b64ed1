"""Results that are a task's argument, or views of it: neither counted nor copied."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from distributed import LocalCluster, get_worker, wait
from distributed.protocol import deserialize, serialize
from hypothesis import given, settings
from hypothesis import strategies as st

import daskref
from daskref import Store
from daskref.cluster.family import register_family
from daskref.cluster.views import ViewFactory, lend
from daskref.proxy import get_factory, is_proxy
from daskref.store.factory import reveal
from daskref.store.mapped import noting
from daskref.worker._data import peek
from tests.support.common import wait_until

NBYTES = 4 * 2**20


def square() -> Any:
    return np.arange(NBYTES / 8).reshape(512, -1)


def frame() -> Any:
    n = NBYTES // 16
    text = pd.array(["some", "text"] * (n // 2), dtype="string[pyarrow]")
    return pd.DataFrame({"a": np.arange(float(n)), "b": np.arange(n), "s": text})


def same(a: Any, b: Any) -> bool:
    """Whether two values are alike in all that users see."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        looks = [(x.shape, x.dtype, x.flags.writeable) for x in (a, b)]
        return looks[0] == looks[1] and np.array_equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return [*a] == [*b] and all(same(a[key], b[key]) for key in b)
    return bool(a.equals(b)) if hasattr(a, "equals") else bool(a == b)


def flags(value: Any) -> Any:
    """Return the shapes and flags of the arrays in a value."""
    if isinstance(value, np.ndarray):
        each = value.flags
        return value.shape, each.c_contiguous, each.f_contiguous, each.writeable
    if isinstance(value, pd.DataFrame):
        value = [value[name].to_numpy() for name in value.select_dtypes("number")]
    if isinstance(value, dict):
        value = [*value.values()]
    return [flags(x) for x in value] if isinstance(value, tuple | list) else None


def plainly(value: Any) -> Any:
    """Return what plain Dask makes of a result on its way."""
    header, frames = serialize(value, serializers=("dask", "pickle", "error"))
    return deserialize(header, [bytearray(frame) for frame in frames])


def swapped(x: Any) -> Any:
    return x.transpose(0, 2, 1)


def fixed(x: Any) -> Any:
    x.flags.writeable = False
    return x


def wrote(x: Any) -> Any:
    x += 1
    return x


def wrote_once(x: Any) -> Any:
    x[3, 4] = -1
    return x


def wrote_elsewhere(x: Any) -> Any:
    x[-1] = -1
    return x[:256]


def wrote_column(d: Any) -> Any:
    d.loc[:, "a"] = 5.0
    return d


#: Name -> (argument, function, how many bytes of the result are its own; None: all)
CASES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], int | None]] = {
    "itself": (square, lambda x: x, 0),
    "slice": (square, lambda x: x[10:], 0),
    "transposed": (square, lambda x: x.T, 0),
    "reshaped": (square, lambda x: x.reshape(-1, 8), 0),
    "as bytes": (square, lambda x: x.view("u1"), 0),
    "as dates": (square, lambda x: x.view("M8[s]"), 0),
    "steps": (square, lambda x: x[::2, 3:], None),
    "backwards": (square, lambda x: x[::-1, ::-1], None),
    "imaginary": (lambda: square() + 1j, lambda x: x.imag, None),
    "columns": (square, lambda x: x[:, 3:], None),
    "field": (lambda: square().view("f8,i8"), lambda x: x["f1"], None),
    "axes swapped": (lambda: square().reshape(64, 64, -1), swapped, None),
    "broadcast": (square, lambda x: np.broadcast_to(x, (2, *x.shape)), None),
    "columns of Fortran's": (lambda: square().T, lambda x: x[:, 3:], 0),
    "in a dict": (square, lambda x: {"x": x[::2], "y": [x.T, x[::-1]]}, None),
    "part small": (square, lambda x: (x, x[:4, ::128]), 0),
    "frame's rows": (frame, lambda d: d[["a"]][::2], None),
    "read-only": (square, fixed, 0),
    "tuple": (square, lambda x: (x, 1, "a"), 0),
    "dict": (square, lambda x: {"x": x, "y": [x[100:], None]}, 0),
    "twice": (square, lambda x: [x, x], 0),
    "masked": (square, lambda x: np.ma.MaskedArray(x, fill_value=3.0), 0),
    "memoryview": (square, lambda x: memoryview(x.reshape(-1)), 0),
    "with one of its own": (square, lambda x: (x, x + 1), NBYTES),
    "written": (square, wrote, None),
    "written at one place": (square, wrote_once, None),
    "written elsewhere": (square, wrote_elsewhere, 0),
    "new": (square, lambda x: x + 1, None),
    "frame": (frame, lambda d: d, 0),
    "frame's slice": (frame, lambda d: d[1000:], 0),
    "frame's column": (frame, lambda d: d["b"], 0),
    "frame and a column": (frame, lambda d: d.assign(c=d.a + 1), NBYTES // 2),
    "table": (lambda: pa.table({"a": square().ravel()}), lambda t: t.slice(7), 0),
}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store("views", "shm://", register=True) as store:
        yield store


def returned(store: Store, value: Any, function: Callable[[Any], Any]) -> Any:
    """Return what a task returns, and what takes its place."""
    reference = store.put_reference(value)
    with noting() as mapped:
        result = function(store.get_reference(reference))
    proxy = lend(result, mapped, store, 0)
    store.evict(reference.key)
    return result, proxy


@pytest.mark.parametrize("name", CASES)
def test_what_comes_back_is_what_was_returned(store: Store, name: str) -> None:
    make, function, own = CASES[name]
    result, proxy = returned(store, make(), function)
    assert (proxy is None) == (own is None)
    assert same(function(make()), result)
    if proxy is None:
        return
    factory: Any = get_factory(proxy)
    assert own <= getattr(factory, "private_nbytes", 0) <= own + 10_000
    register_family()
    ways = [proxy, deserialize(*serialize(proxy))]
    ways += [pickle.loads(pickle.dumps(proxy, protocol)) for protocol in (4, 5)]
    for way in ways:
        assert same(reveal(way), result)


def slices(length: int) -> st.SearchStrategy[slice]:
    return st.slices(length).filter(lambda s: len(range(length)[s]) > 0)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_view_after_any_writes(store: Store, data: st.DataObject) -> None:
    x = np.arange(3 * 16 * 512, dtype="i4").reshape(3, 16, 512)
    draw = data.draw

    def task(x: Any) -> Any:
        view = x.transpose(draw(st.permutations(range(3))))
        view = view[tuple(draw(slices(length)) for length in view.shape)]
        for _ in range(draw(st.integers(0, 2))):
            place = tuple(draw(st.integers(0, length - 1)) for length in x.shape)
            x[place] = -1
        return draw(st.sampled_from([view, [view, x], {"x": x, "y": view}]))

    result, proxy = returned(store, x, task)
    if proxy is not None:
        made = reveal(proxy)
        assert same(made, result)
        first = made if isinstance(made, np.ndarray) else next(_values(made))
        first[...] = -5  # nobody else sees it, or whoever has the result
        assert same(reveal(proxy), result)


def _values(made: Any) -> Any:
    return iter(made.values() if isinstance(made, dict) else made)


class Mine:
    """Something of a user's, which may be more than its parts."""

    def __init__(self, x: Any) -> None:
        self.x = x


def test_objects_of_users_stay_what_they_are(store: Store) -> None:
    assert returned(store, square(), Mine)[1] is None
    assert returned(store, square(), lambda x: [Mine(x)])[1] is None
    # but what came out of the store goes back as it was
    assert returned(store, Mine(square()), lambda mine: mine)[1] is not None

    def changed(mine: Mine) -> Mine:
        mine.x = mine.x[1:]
        return mine

    assert returned(store, Mine(square()), changed)[1] is None


def test_nothing_large_is_copied_to_look(store: Store) -> None:
    for function in (
        lambda x: (x, (x + 1)[:, ::2]),
        lambda x: (x, x.astype(object)),
        lambda x: (x, [*range(10**6)]),
    ):
        assert returned(store, square(), function)[1] is None


# On clusters


def place(key: Any, dask_worker: Any = None) -> Any:
    """Return what a worker has under a key: is it a proxy, and the worker's bytes."""
    worker = dask_worker or get_worker()
    found = peek(worker.data, key)
    kind = type(get_factory(found)).__name__ if is_proxy(found) else None
    return kind, worker.state.tasks[key].nbytes, worker.state.nbytes


def placed(client: Any, future: Any) -> Any:
    [worker] = client.who_has(future)[future.key]
    return client.run(place, future.key, workers=[worker])[worker]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", ["literal", "scattered"])
def test_results_of_tasks(client: Any, name: str, how: str) -> None:
    make, function, own = CASES[name]
    value: Any = make() if how == "literal" else client.scatter(make(), hash=False)
    future = client.submit(function, value, pure=False)
    del value
    wait(future)
    kind, nbytes, _ = placed(client, future)
    assert (kind is None) == (own is None)
    if own is not None:
        assert own <= nbytes <= own + 10_000
    expected = function(make())
    assert dask.sizeof.sizeof(expected) * 0.9 < client.nbytes(summary=False)[future.key]
    [home] = client.who_has(future)[future.key]
    # somewhere else, and where it was made
    for worker in client.scheduler_info()["workers"]:
        again = client.submit(
            lambda x: (x, flags(x)), future, workers=[worker], pure=False
        )
        value, arrived = again.result()
        assert same(value, expected)
        if worker != home:
            assert arrived == flags(plainly(expected))
    result = future.result()
    assert same(result, expected)
    assert flags(result) == flags(plainly(expected))


def test_written_before_and_after(client: Any) -> None:
    x = client.scatter(square(), hash=False)
    view = client.submit(lambda x: x[1:], x, pure=False)
    more = client.submit(wrote, view, pure=False)
    wait([view, more])
    assert same(view.result(), square()[1:])
    assert same(more.result(), square()[1:] + 1)
    assert same(x.result(), square())


def test_the_original_goes_first(client: Any, puts: Any) -> None:
    x = client.scatter(square(), hash=False)
    view = client.submit(lambda x: x[1:], x, pure=False)
    chain = client.submit(lambda x: (x.T, x), view, pure=False)
    wait([view, chain])
    del x, view
    gc.collect()
    wait_until(lambda: client.run_on_scheduler(in_memory) == [chain.key])
    assert same(chain.result(), (square()[1:].T, square()[1:]))
    assert puts() == 1


def in_memory(dask_scheduler: Any) -> list[Any]:
    return [key for key, ts in dask_scheduler.tasks.items() if ts.state == "memory"]


def test_coroutines_and_one_result_that_is_two(client: Any) -> None:
    async def both(x: Any, y: Any) -> Any:
        return x[1:], y

    x = client.scatter(square(), hash=False)
    future = client.submit(both, x, square() + 1, pure=False)
    assert same(future.result(), (square()[1:], square() + 1))
    assert placed(client, future)[0] == ViewFactory.__name__


def test_cancelled_and_failed_tasks_leave_nothing(client: Any) -> None:
    """The fixture looks whether everything is freed."""
    x = client.scatter(square(), hash=False)
    futures = []
    for i in range(20):
        futures.append(client.submit(lambda x, i: x[i:], x, i, pure=False))
        if i % 2:
            client.cancel(futures.pop())
    futures.append(client.submit(lambda x: (x, 1 / 0), x, pure=False))
    wait(futures)


class TestLittleMemory:
    """Views of several times a worker's memory."""

    BIG = 40 * 2**20

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[Any]:
        with (
            dask.config.set({"distributed.worker.memory.pause": 0.95}),
            LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                memory_limit="400 MB",
                dashboard_address=":0",
            ) as cluster,
            daskref.Client(cluster) as client,
        ):
            yield client

    @staticmethod
    def spilled(dask_worker: Any) -> int:
        return int(dask_worker.data.spilled_total.disk)

    def test_nothing_is_spilled(self, client: Any) -> None:
        x = client.scatter(np.arange(self.BIG / 8), hash=False)
        futures = [
            client.submit(lambda x, i: (x, x[i:]), x, i, pure=False) for i in range(20)
        ]
        wait(futures)
        # 1.6 GB, as Dask counts
        assert sum(client.nbytes(summary=False).values()) > 20 * 2 * self.BIG
        assert sum(client.run(self.spilled).values()) == 0
        sizes = client.run(lambda dask_worker: dask_worker.state.nbytes)
        assert max(sizes.values()) < self.BIG
        assert same(futures[7].result()[1], np.arange(self.BIG / 8)[7:])

    def test_what_is_spilled_is_a_recipe(self, client: Any) -> None:
        x = client.scatter(np.arange(self.BIG / 8), hash=False)
        future = client.submit(lambda x: (x[2:], x[:500_000] + 1), x, pure=False)
        wait(future)
        [worker] = client.who_has(future)[future.key]

        def spill(dask_worker: Any) -> int:
            while dask_worker.data.evict() >= 0 and dask_worker.data.fast:
                pass
            return int(dask_worker.data.spilled_total.disk)

        assert 4e6 < client.run(spill, workers=[worker])[worker] < 5e6
        expected = np.arange(self.BIG / 8)[2:], np.arange(500_000) + 1.0
        assert same(future.result(), expected)
