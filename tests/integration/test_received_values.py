"""The value that arrives is the value that was sent: its type, and which are one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

import daskref
from tests.support.common import wait_until
from tests.support.requirements import require_module
from tests.support.routes import Call, Losses, Site, Sites, calls
from tests.support.values import (
    HOSTILE,
    KINDS,
    MANY,
    Array,
    Masked,
    Quantity,
    Record,
    Text,
    differences,
    fingerprint,
    look,
    look_at_each,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(  # the threads of Dask use it, while hypothesis draws
        "ignore:Do not use the `random` module"
        ":hypothesis.errors.HypothesisDeprecationWarning"
    ),
    pytest.mark.filterwarnings(  # where an example fails, it is shown in full
        "ignore:Generating overly large repr:hypothesis.errors.HypothesisWarning"
    ),
    pytest.mark.filterwarnings(  # that is NumPy's; the zoo has one
        "ignore:the matrix subclass:PendingDeprecationWarning"
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Sites]:
    """The clusters that these tests share: one for each threshold, and a plain one."""
    with Sites() as sites:
        yield sites


@pytest.fixture
def tiny(cluster: Sites) -> Site:
    """All that is above one byte goes by reference."""
    return cluster.by_threshold(1)


@pytest.fixture
def usual(cluster: Sites) -> Site:
    """The default threshold."""
    return cluster.by_threshold("1 MiB")


@pytest.fixture(params=["tiny", "usual"])
def site(request: Any, cluster: Sites) -> Site:
    return cluster.by_threshold({"tiny": 1, "usual": "1 MiB"}[request.param])


@pytest.fixture
def client(site: Site) -> Any:
    return site.client


@pytest.fixture
def losses(cluster: Sites) -> Losses:
    return Losses(None)


# All kinds, all routes

_BATCH = 16
_NAMES = sorted(KINDS)


def call_of(names: list[str], length: int) -> Call:
    """Return a call with a value of each kind, at several places."""
    leaves = [("leaf", name, 3, length) for name in names]
    again = [("same", i) for i in range(len(names))]
    return Call(
        "closure",
        leaves[:4],
        [*leaves[4:], ("same", 0), ("list", again)],
        [("same", 2), ("dict", again)],
    )


@pytest.mark.parametrize("start", range(0, len(_NAMES), _BATCH))
def test_each_kind_by_each_route(tiny: Site, losses: Losses, start: int) -> None:
    losses.check(tiny, call_of(_NAMES[start : start + _BATCH], 7))


_LARGE = [
    *("numpy f", "numpy >M8[ms]", "numpy Fortran", "numpy strided", "numpy broadcast"),
    *("numpy subclass with attributes", "numpy masked", "numpy matrix, transposed"),
    *("pandas frame", "pandas Series, arrow chunks", "arrow table", "polars frame"),
    *("xarray dataset", "torch tensor", "bytearray", "memoryview, cast", "text"),
]


@pytest.mark.parametrize("route", ["submit", "result", "scatter a list"])
def test_large_ones(usual: Site, losses: Losses, route: str) -> None:
    names = [name for name in _LARGE if name in KINDS]
    losses.check(usual, call_of(names, MANY), [route])


_short = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=["generate"],
    suppress_health_check=list(HealthCheck),
)


@settings(_short, max_examples=12)
@given(call=calls())
def test_nested_values(tiny: Site, losses: Losses, call: Call) -> None:
    losses.check(tiny, call)


# What is one object, and what is two


def zeros(nbytes: int = 2 << 20) -> Any:
    return np.zeros(nbytes // 8)


class Optimizer:
    def __init__(self, n: int = 1 << 18) -> None:
        self.w = self.m = self.v = np.zeros(n)
        self.m = np.zeros(n)
        self.v = np.zeros(n)

    def step(self) -> Any:
        self.w -= 1
        self.m += 1
        self.v += 2
        return self.w[0], self.m[0], self.v[0]

    def is_mine(self, w: Any) -> bool:
        return self.w is w


def step(optimizer: Any) -> Any:
    return optimizer.step()


def add_one(arrays: Any) -> Any:
    arrays[0] += 1
    return [float(x[0]) for x in arrays]


def are_one(*objs: Any) -> bool:
    return all(obj is objs[0] for obj in objs)


class TestWhatIsTwo:
    def test_equal_arrays_in_a_list(self, client: Any) -> None:
        assert client.submit(add_one, [zeros(), zeros()]).result() == [1, 0]

    def test_equal_arrays_in_an_object(self, client: Any) -> None:
        optimizer = Optimizer()
        assert client.submit(optimizer.step).result() == (-1, 1, 2)
        assert client.submit(step, optimizer).result() == (-1, 1, 2)
        assert dask.delayed(step)(optimizer).compute(scheduler=client) == (-1, 1, 2)
        assert client.submit(lambda: optimizer.step()).result() == (-1, 1, 2)
        assert client.submit(step, client.scatter(optimizer)).result() == (-1, 1, 2)
        assert optimizer.w[0] == 0

    def test_equal_frames_in_a_dict(self, client: Any) -> None:
        frame = pd.DataFrame({"a": np.zeros(200_000)})

        def add(frames: Any) -> Any:
            frames["train"]["b"] = 1
            frames["train"].loc[0, "a"] = 5.0
            return [list(f) for f in frames.values()], frames["test"].a[0]

        data = {"train": frame, "test": frame.copy()}
        assert client.submit(add, data).result() == ([["a", "b"], ["a"]], 0)

    def test_equal_variables_of_a_dataset(self, client: Any) -> None:
        xr = require_module("xarray")
        dataset = xr.Dataset({"a": ("x", zeros()), "b": ("x", zeros())})

        def add(dataset: Any) -> Any:
            dataset.a.values[:] += 1
            return float(dataset.a[0]), float(dataset.b[0])

        assert client.submit(add, dataset).result() == (1, 0)
        assert client.submit(add, client.scatter(dataset)).result() == (1, 0)

    def test_three_memmaps_of_one_file(self, client: Any, tmp_path: Any) -> None:
        path = tmp_path / "file"
        np.save(path, zeros())
        maps = [np.load(f"{path}.npy", mmap_mode="c") for _ in range(3)]
        assert client.submit(add_one, maps).result() == [1, 0, 0]

    def test_views_that_differ(self, client: Any) -> None:
        matrix = np.asmatrix(np.arange(160_000.0).reshape(400, 400))
        masked = np.ma.MaskedArray(np.asarray(matrix), mask=np.asarray(matrix) > 7)
        view = memoryview(bytes(range(256)) * 5000)
        pairs = [
            *[(matrix, matrix.T), (masked, masked.T), (view, view.cast("d"))],
            *[(Text("t" * MANY * 8), "t" * MANY * 8)],
        ]
        for pair in pairs:
            got = client.submit(look_at_each, *pair).result()
            for value, arrived in zip(pair, got, strict=True):
                assert not list(differences(fingerprint(value), arrived))


class TestWhatIsOne:
    def test_two_arguments(self, client: Any) -> None:
        x = zeros()
        assert client.submit(are_one, x, x).result()
        assert client.submit(add_one, [x, x]).result() == [1, 1]
        items = [1, zeros()]
        assert client.submit(are_one, items, items).result()
        assert x[0] == 0

    def test_argument_and_closure(self, client: Any) -> None:
        x = zeros()
        assert client.submit(lambda y: y is x, x).result()

    def test_a_bound_method_and_its_attribute(self, client: Any) -> None:
        optimizer = Optimizer()
        assert client.submit(optimizer.is_mine, optimizer.w).result()

    def test_a_frame_and_its_index(self, client: Any) -> None:
        frame = pd.DataFrame(
            {"a": np.zeros(200_000)}, index=pd.Index(np.arange(200_000) * 2)
        )
        index = frame.index
        kept = _pickles_as_one(frame, index)
        got = client.submit(lambda f, i: f.index is i, frame, index).result()
        assert got or not kept

    def test_two_frames_and_their_columns(self, client: Any) -> None:
        columns = pd.Index(["a", "b"])
        frames = [pd.DataFrame(np.zeros((100_000, 2)), columns=columns)] * 2
        frames[1] = pd.DataFrame(np.ones((100_000, 2)), columns=columns)
        if frames[0].columns is frames[1].columns:
            assert client.submit(lambda a, b: a.columns is b.columns, *frames).result()

    def test_a_cycle(self, client: Any) -> None:
        optimizer = Optimizer()
        optimizer.me = [optimizer]  # type: ignore[attr-defined]
        assert client.submit(lambda x: x.me[0] is x, optimizer).result()

    def test_in_a_result(self, client: Any) -> None:
        def make() -> Any:
            x = np.zeros(1 << 18)
            return [x, x, x.copy()]

        a, b, c = client.submit(make, pure=False).result()
        assert a is b
        assert a is not c


def _pickles_as_one(frame: Any, index: Any) -> bool:
    import pickle

    frame, index = pickle.loads(pickle.dumps((frame, index)))
    return frame.index is index


# Types


def _with_metadata(n: int) -> Any:
    return np.zeros(n).astype(np.dtype("f8", metadata={"unit": "m"}))


def _array_subclass(n: int) -> Any:
    made = Array("d", bytes(8 * n))
    made.unit = "m"  # type: ignore[attr-defined]
    return made


def _text(n: int) -> Any:
    made = Text("t" * n)
    made.unit = "m"  # type: ignore[attr-defined]
    return made


TYPES = {
    "recarray": lambda n: np.zeros(n, [("a", "f8")]).view(np.recarray),
    "chararray": lambda n: np.full(n, b"abc").view(np.char.chararray),
    "memmap": lambda n: KINDS["numpy memmap"](1, n),
    "array": _array_subclass,
    "masked": lambda n: Masked(np.zeros(n), mask=np.arange(n) % 2 == 0),
    "quantity": lambda n: Quantity(np.zeros(n), "m"),
    "metadata": _with_metadata,
    "text": _text,
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("n", [10, 400_000])
def test_types_and_attributes(site: Site, name: str, n: int) -> None:
    client = site.client
    value = TYPES[name](n)
    sent = fingerprint(value)
    for hash in (True, False):
        future = client.scatter(value, hash=hash)
        found = [
            *client.submit(look_at_each, value, future, pure=False).result(),
            fingerprint(future.result()),
            fingerprint(client.submit(TYPES[name], n, pure=False).result()),
        ]
        for arrived in found:
            assert not list(differences(sent, arrived))


def _hostile(name: str, n: int) -> Any:
    return next(cls for cls in HOSTILE if cls.__name__ == name)(1, np.arange(n))


@pytest.mark.parametrize("name", [cls.__name__ for cls in HOSTILE])
@pytest.mark.parametrize("n", [3, MANY])
def test_objects_that_raise_or_tell_nonsense(client: Any, name: str, n: int) -> None:
    value = _hostile(name, n)
    sent = fingerprint(value)
    futures = [client.scatter(value, hash=hash) for hash in (True, False)]
    futures.append(client.submit(_hostile, name, n, pure=False))
    looked = client.submit(look_at_each, value, *futures, pure=False).result()
    arrived = [*looked, *(fingerprint(future.result()) for future in futures)]
    assert arrived == [sent] * 7


# Calls


@pytest.mark.parametrize("nbytes", [480_000, 2 << 20])
@pytest.mark.parametrize("wrap", ["list", "dict", "alone"])
def test_each_task_of_a_map_has_its_own_keyword(
    client: Any, nbytes: int, wrap: str
) -> None:
    def add(i: int, kw: Any) -> float:
        array = {"list": lambda: kw[1], "dict": lambda: kw["x"], "alone": lambda: kw}
        x = array[wrap]()
        x += 1
        return float(x[0])

    x = zeros(nbytes)
    kw = {"list": [0, x], "dict": {"x": x}, "alone": x}[wrap]
    assert client.gather(client.map(add, range(6), kw=kw)) == [1] * 6
    assert x[0] == 0


def test_a_key_of_the_users(client: Any) -> None:
    future = client.submit(np.sum, zeros(), key="k")
    assert future.key == "k"
    assert future.result() == 0
    del future
    wait_until(lambda: "k" not in client.futures, "the key is released")


def test_every_option_of_dask(tiny: Site) -> None:
    client, worker = tiny.client, tiny.workers[1]
    x = zeros(800)
    options: dict[str, Any] = {
        "workers": [worker], "retries": 2, "priority": 10, "fifo_timeout": "1 s",
        "pure": False, "allow_other_workers": True,
    }  # fmt: skip
    assert client.submit(add_one, [x, x.copy()], **options).result() == [1, 0]
    futures = client.map(add_one, [[x, x.copy()]] * 3, **options, batch_size=2)
    assert client.gather(futures) == [[1, 0]] * 3
    assert client.submit(np.sum, x, workers=worker, pure=True).result() == 0
    blocked = client.submit(np.sum, x, resources={"GPU": 1}, pure=False)
    wait_until(lambda: client.run_on_scheduler(_restrictions, key=blocked.key))
    blocked.cancel()
    made = client.submit(Optimizer, 10, actor=True)
    actor = tiny.bind(made)
    assert actor.step().result() == (-1, 1, 2)


def _restrictions(key: Any, dask_scheduler: Any) -> bool:
    task = dask_scheduler.tasks.get(key)
    return task is not None and task.resource_restrictions == {"GPU": 1}


def test_joblib(client: Any) -> None:
    joblib = require_module("joblib")
    x = zeros()
    with joblib.parallel_config("dask", client=client, scatter=[x]):
        got = joblib.Parallel()(joblib.delayed(_plus)(x, i) for i in range(8))
    assert got == [float(i) for i in range(8)]


def _plus(x: Any, i: int) -> float:
    return float(x[0]) + i


# By reference


@pytest.fixture
def puts(client: Any) -> Any:
    """``() -> int``: puts since the test began."""
    before = daskref.stats(client)["puts"]
    return lambda: daskref.stats(client)["puts"] - before


def _tensor(torch: Any) -> Any:
    return torch.arange(1 << 18, dtype=torch.float64)


def _parameter(torch: Any) -> Any:
    return torch.nn.Parameter(_tensor(torch))


def _module(torch: Any) -> Any:
    return torch.nn.Linear(1 << 19, 1)


def _imported(make: Any) -> Any:
    import torch

    return make(torch)


@pytest.mark.parametrize("make", [_tensor, _parameter, _module])
def test_torch_is_put_once(usual: Site, make: Any) -> None:
    client = usual.client
    value = make(require_module("torch"))
    sent = fingerprint(value)
    before = daskref.stats(client)["puts"]
    futures = [client.submit(look_at_each, value, i, pure=False) for i in range(10)]
    assert all(seen[0] == sent for seen in client.gather(futures))
    scattered = client.scatter(value)
    assert fingerprint(scattered.result()) == sent
    assert daskref.stats(client)["puts"] - before == 1
    made = client.submit(_imported, make, pure=False)
    assert type(made.result()) is type(value)
    assert daskref.stats(client)["puts"] - before == 2


def _polars(n: int) -> Any:
    import polars

    return polars.DataFrame({"a": np.arange(n)})


def _forest(n: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    x = np.arange(2000.0).reshape(-1, 1)
    return RandomForestRegressor(20, random_state=n).fit(x, np.sin(x[:, 0]))


def _record(n: int) -> Any:
    return Record(np.arange(n), [np.zeros(n)])


def _object(n: int) -> Any:
    return Optimizer(n)


@pytest.mark.parametrize(
    ("package", "make"),
    [("polars", _polars), ("sklearn", _forest), ("numpy", _record), ("numpy", _object)],
)
def test_large_objects_go_by_reference(usual: Site, package: str, make: Any) -> None:
    require_module(package)
    client = usual.client
    n = 1 << 18  # each of another content, or it would be stored already
    for send in (
        lambda: client.scatter(make(n)),
        lambda: client.submit(make, n + 1, pure=False),
        lambda: client.submit(look, make(n + 2), pure=False),
    ):
        before = daskref.stats(client)["puts"]
        future = send()
        assert type(future.result()) in (type(make(n)), dict)
        wait_until(lambda: daskref.stats(client)["puts"] > before, "it was put")  # noqa: B023


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.x = zeros()


def _acquired(obj: Any) -> bool:
    with obj.lock:
        return bool(obj.x[0] == 0)


@pytest.mark.parametrize("hash", [True, False])
def test_what_does_not_pickle_in_one_process(hash: bool) -> None:
    with daskref.Client(processes=False, dashboard_address=":0") as client:
        for future in (
            client.scatter(Locked(), hash=hash),
            *client.scatter([Locked(), 1], hash=hash)[:1],
            client.scatter({"x": Locked()}, hash=hash)["x"],
        ):
            assert client.submit(_acquired, future).result()
