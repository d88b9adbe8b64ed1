"""What user code finds in a worker's data: values, as with plain Dask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster, get_worker
from distributed.spill import SpillBuffer

import daskref
from daskref.proxy import is_proxy, is_resolved
from daskref.worker._data import peek
from tests.support.common import large

READS: list[Callable[..., Any]] = [
    lambda data, key: data[key],
    lambda data, key: data.get(key),
    lambda data, key: data.get(key, 5),
    lambda data, key: dict(data.items())[key],
    lambda data, key: dict(data)[key],
    lambda data, key: {**data}[key],
    lambda data, key: next(v for v in data.values() if len(v) > 5),
    lambda data, key: next(v for k, v in data.items() if k == key),
]


def seen(obj: Any) -> Any:
    return type(obj).__name__, bytes(memoryview(obj))[:16], memoryview(obj).nbytes


@pytest.fixture(scope="module", params=[0, "2 GiB"])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """One worker, with data that can be spilled, and without."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        dashboard_address=":0",
        memory_limit=request.param,
    ) as cluster:
        yield cluster


@pytest.mark.parametrize("read", range(len(READS)))
def test_every_way_to_read_gives_the_value(client: Any, read: int) -> None:
    future = client.scatter(large(), hash=False)
    found = READS[read]

    def by_run(dask_worker: Any) -> Any:
        return [
            seen(found(data, future_key))
            for data in (dask_worker.data, dask_worker.state.data)
        ]

    def by_task(key: Any) -> Any:
        return seen(found(get_worker().data, key))

    future_key = future.key
    expected = seen(large())
    assert list(client.run(by_run).values()) == [[expected] * 2]
    assert client.submit(by_task, future_key).result() == expected


@pytest.mark.parametrize("kind", [bytes, bytearray, np.ndarray, list])
def test_buffers_and_containers(client: Any, kind: type) -> None:
    value: Any = large() if kind is np.ndarray else kind(bytes(2 * 2**20))
    [future] = client.scatter([value], hash=False)

    def look(dask_worker: Any, key: Any) -> Any:
        value = dask_worker.data[key]
        return type(value), len(value), value is dask_worker.data[key]

    assert [*client.run(look, key=future.key).values()] == [(kind, len(value), True)]


def test_a_result_that_was_asked_for(client: Any) -> None:
    future = client.submit(large, pure=False)
    assert type(future.result()) is np.ndarray
    key = future.key
    found = client.run(lambda dask_worker: seen(dask_worker.data[key]))
    assert [*found.values()] == [seen(large())]


def test_missing_and_present(client: Any) -> None:
    future = client.scatter(large(), hash=False)

    def look(dask_worker: Any, key: Any) -> Any:
        data = dask_worker.data
        with pytest.raises(KeyError):
            data["other"]
        return data.get("other"), data.get("other", 1), key in data, len(data), [*data]

    found = client.run(look, key=future.key)
    assert [*found.values()] == [(None, 1, True, 1, [future.key])]


def test_dask_fetches_nothing(client: Any) -> None:
    """What is passed on stays a reference until somebody looks."""
    future = client.scatter(large(), hash=False)

    def look(dask_worker: Any, key: Any) -> Any:
        found = peek(dask_worker.data, key)
        return is_proxy(found) and not is_resolved(found)

    assert client.submit(np.sum, future).result() == large().sum()
    assert len(future.result()) == len(large())
    assert [*client.run(look, key=future.key).values()] == [True]


def test_the_class_is_one_of_dasks(client: Any) -> None:
    def bases(dask_worker: Any) -> Any:
        cls = type(dask_worker.data)
        return [base.__name__ for base in cls.__mro__], cls.__name__

    (names, name) = next(iter(client.run(bases).values()))
    assert name in names[1:] or "dict" in names


def test_undone_with_the_session(cluster: LocalCluster) -> None:
    with Client(cluster) as plain:
        before = plain.run(lambda dask_worker: repr(type(dask_worker.data)))
        with daskref.Client(cluster) as client:
            future = client.scatter(large(), hash=False)
            daskref.disable(client)
            key = future.key
            found = client.run(lambda dask_worker: seen(dask_worker.data[key]))
            assert [*found.values()] == [seen(large())]
            del future
        assert before == plain.run(lambda dask_worker: repr(type(dask_worker.data)))


class Mine(dict[Any, Any]):
    """A mapping of the user's own."""


def test_the_users_own_mapping() -> None:
    with (
        LocalCluster(
            n_workers=1,
            processes=False,
            protocol="tcp",
            dashboard_address=":0",
            data=Mine,
        ) as cluster,
        daskref.Client(cluster) as client,
    ):
        future = client.scatter(large(), hash=False)
        worker = cluster.workers[0]
        assert isinstance(worker.data, Mine)
        assert seen(worker.data[future.key]) == seen(large())


def test_its_type_is_what_it_is_for_dask(cluster: Any, client: Any) -> None:
    with Client(cluster, set_as_default=False) as plain:
        for each in (client, plain):
            (cls,) = each.run(lambda dask_worker: type(dask_worker.data)).values()
            assert cls in (dict, SpillBuffer)
