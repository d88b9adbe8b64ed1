"""The task boundary: functions see values."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from dask._task_spec import Alias, DataNode, Task, TaskRef
from dask.sizeof import sizeof
from dask.tokenize import tokenize
from distributed import Reschedule

from daskref.connectors import LocalConnector
from daskref.exceptions import ObjectLostError, ResolveError
from daskref.graph.nodes import PackedNode
from daskref.graph.packing import Packer
from daskref.proxy import Proxy
from daskref.store import Store
from daskref.store.factory import StoreFactory
from daskref.worker._boundary import Boundary, needs_boundary


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("boundary", LocalConnector(), register=True) as store:
        yield store


@pytest.fixture
def inside(store: Store) -> Any:
    """What Dask keeps: a transparent proxy of an array."""
    return Proxy(StoreFactory(store.put_reference(np.arange(10)), transparent=True))


def look(*args: Any) -> list[type]:
    return [type(arg) for arg in args]


async def look_later(*args: Any) -> list[type]:
    return [type(arg) for arg in args]


def test_dependencies_arrive_as_values(inside: Any) -> None:
    task = Task("t", look, TaskRef("x"), TaskRef("y"))
    seen = Boundary(task)({"x": inside, "y": 1})
    assert seen == [np.ndarray, int]


def test_each_call_gets_its_own(inside: Any) -> None:
    def change(x: Any) -> Any:
        x += 1
        return x

    node = Boundary(Task("t", change, TaskRef("x")))
    first, second = node({"x": inside}), node({"x": inside})
    assert first[0] == second[0] == 1


def test_a_proxy_of_the_users_stays_one(store: Store) -> None:
    proxy = store.proxy([1, 2])
    (seen,) = Boundary(Task("t", look, TaskRef("x")))({"x": proxy})
    assert issubclass(seen, Proxy)


def test_proxies_inside_containers_of_the_task(inside: Any) -> None:
    from dask._task_spec import List

    task = Task("t", lambda xs: look(*xs), List(TaskRef("x"), TaskRef("x")))
    assert Boundary(task)({"x": inside}) == [np.ndarray, np.ndarray]


def test_an_alias_of_stored_data(inside: Any) -> None:
    found = Boundary(Alias("t", "x"))({"x": inside})
    assert type(found) is np.ndarray


@pytest.mark.parametrize("named", [False, True])
def test_coroutine_functions(store: Store, inside: Any, named: bool) -> None:
    threads = set()

    async def run(func: Any, *args: Any) -> Any:
        import threading

        def traced() -> Any:
            threads.add(threading.current_thread())
            return func(*args)

        return await asyncio.to_thread(traced)

    packer = Packer(100, lambda obj, encoded: store.put_reference(obj))
    task = Task("t", look_later, TaskRef("x"), [1] * 1000, 5)
    packed = packer.node(task)
    assert type(packed) is PackedNode
    node = Boundary(packed, run)
    assert node.is_coro

    async def main() -> Any:
        import threading

        result = await node({"x": inside})
        assert threading.current_thread() not in threads
        return result

    assert asyncio.run(main()) == [np.ndarray, list, int]
    assert threads


class LossyConnector(LocalConnector):
    """A store whose objects were lost with their host."""

    recomputed: bool

    def get(self, key: Any) -> Any:
        raise ObjectLostError(repr(self), "its host is gone", self.recomputed)


@pytest.fixture(params=[False, True], ids=["function", "coroutine"])
def call(request: pytest.FixtureRequest) -> Any:
    """``(value) -> result`` of a task with that dependency, by either way."""

    async def run(func: Any, *args: Any) -> Any:
        return await asyncio.to_thread(func, *args)

    def call(value: Any) -> Any:
        if not request.param:
            return Boundary(Task("t", look, TaskRef("x")))({"x": value})

        async def main() -> Any:
            return await Boundary(Task("t", look_later, TaskRef("x")), run)(
                {"x": value}
            )

        return asyncio.run(main())

    return call


class TestLostDependencies:
    @pytest.fixture
    def lost(self) -> Iterator[Any]:
        connector = LossyConnector()
        with Store("boundary-lost", connector, register=True) as store:
            reference = store.put_reference(np.arange(10))
            yield connector, Proxy(StoreFactory(reference, transparent=True))

    def test_a_task_runs_once_they_are_computed_again(
        self, lost: Any, call: Any
    ) -> None:
        connector, proxy = lost
        connector.recomputed = True
        with pytest.raises(Reschedule):
            call(proxy)

    def test_else_it_fails_and_says_what_was_lost(self, lost: Any, call: Any) -> None:
        connector, proxy = lost
        connector.recomputed = False
        with pytest.raises(ResolveError, match="its host is gone"):
            call(proxy)

    def test_what_was_evicted_is_not_waited_for(self, store: Store, call: Any) -> None:
        reference = store.put_reference(np.arange(10))
        store.evict(reference.key)
        with pytest.raises(ResolveError):
            call(Proxy(StoreFactory(reference, transparent=True)))


def test_looks_like_the_node_inside() -> None:
    task = Task("t", look, TaskRef("x"))
    node = Boundary(task)
    assert node.key == "t"
    assert node.dependencies == {"x"}
    assert node.data_producer == task.data_producer
    assert node.is_coro is False
    assert repr(node) == repr(task)
    assert sizeof(node) == sizeof(task)
    assert tokenize(node) == tokenize(Boundary(task))
    assert tokenize(node) != tokenize(Boundary(Task("t", look, 1)))
    assert node.copy().inner is task
    assert pickle.loads(pickle.dumps(node))({"x": 1}) == [int]


def test_what_needs_one() -> None:
    task = Task("t", look, TaskRef("x"))
    assert needs_boundary(task, True)
    assert not needs_boundary(task, False)
    assert not needs_boundary(Boundary(task), True)
    assert needs_boundary(Task("t", look_later), False)
    assert not needs_boundary(None, True)
    assert not needs_boundary(DataNode("x", 1), False)
