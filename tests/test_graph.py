"""Large literals in a graph -> references."""

from __future__ import annotations

import asyncio
import functools
import operator
import pickle
import threading
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import cloudpickle
import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask._expr import LLGExpr
from dask._task_spec import (
    Alias,
    DataNode,
    Dict,
    List,
    Task,
    TaskRef,
    execute_graph,
    parse_input,
)
from dask.base import collections_to_expr
from distributed.client import _MapExpr

import daskref
from daskref.connectors import LocalConnector
from daskref.exceptions import ConnectorError
from daskref.graph import GraphExpr, Prepickled, is_small, pack_argument, pack_expr
from daskref.nodes import PackedNode, ReferenceNode, references_in
from daskref.proxy import Proxy
from daskref.store import Store
from daskref.tokens import content_token
from daskref.transparency import reveal

THRESHOLD = 1000
LARGE = 500  # elements of 8 bytes

Pair = namedtuple("Pair", "a b")


class Putter:
    """Puts as a client does, each content once; counts."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls = 0
        self.by_token: dict[str, Any] = {}

    def __call__(self, obj: Any) -> Any:
        self.calls += 1
        token = content_token(obj)
        if token not in self.by_token:
            self.by_token[token] = self.store.put_reference(obj, token)
        return self.by_token[token]

    def __len__(self) -> int:
        return len(self.by_token)


@pytest.fixture
def put() -> Iterator[Putter]:
    with Store("graph", LocalConnector(), register=True) as store:
        yield Putter(store)


def large(fill: float = 1.0) -> Any:
    return np.full(LARGE, fill)


def llg(**tasks: Any) -> LLGExpr:
    return LLGExpr({task.key: task for task in tasks.values()}, _determ_token="token")


def mapped(func: Any, *columns: Any, **kwargs: Any) -> Any:
    """Return what ``client.map`` makes, with two tasks, k0 and k1."""
    return _MapExpr(func, columns, ["k0", "k1"], False, {}, kwargs)


def arrive(expr: Any) -> dict[Any, Any]:
    """Send an expression as a client does, and return the graph that arrives."""
    data = cloudpickle.dumps(expr)
    return dict(pickle.loads(data).__dask_graph__())


def run(expr: Any, key: Any) -> Any:
    """Execute what arrives, with task boundaries as on a worker."""
    graph = arrive(expr)
    values: dict[Any, Any] = {}

    def value(key: Any) -> Any:
        if key not in values:
            node = graph[key]
            values[key] = node({d: reveal(value(d)) for d in node.dependencies})
        return values[key]

    return reveal(value(key))


def total(*args: Any, **kwargs: Any) -> float:
    values = [*args, *kwargs.values()]
    assert not any(isinstance(v, Proxy) for v in values)
    return float(sum(np.sum(v) for v in values))


class TestTasks:
    def test_arguments(self, put: Putter) -> None:
        task = Task("t", total, large(), 1, y=large(2))
        packed = pack_expr(llg(t=task), THRESHOLD, put)
        (node,) = arrive(packed).values()
        assert isinstance(node.args[0], ReferenceNode)
        assert node.args[1] == 1
        assert isinstance(node.kwargs["y"], ReferenceNode)
        assert len(references_in(node)) == len(put) == 2
        assert run(packed, "t") == 3 * LARGE + 1
        assert isinstance(task.args[0], np.ndarray)  # the caller's is not changed

    def test_the_same_value_is_put_once(self, put: Putter) -> None:
        x = large()
        tasks = {str(i): Task(f"t{i}", total, x, i) for i in range(10)}
        packed = pack_expr(llg(**tasks), THRESHOLD, put)
        assert len(put) == 1
        assert run(packed, "t9") == LARGE + 9

    def test_dependencies_stay(self, put: Putter) -> None:
        x = Task("x", total, large())
        y = Task("y", total, TaskRef("x"), large(2))
        packed = pack_expr(llg(x=x, y=y), THRESHOLD, put)
        assert arrive(packed)["y"].dependencies == {"x"}
        assert run(packed, "y") == 3 * LARGE

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda x: [x, 1],
            lambda x: (x, 1),
            lambda x: Pair(x, 1),
            lambda x: {"x": x, "y": [1]},
            lambda x: {"deep": [{"x": (x,)}]},
            lambda x: functools.partial(total, x),
        ],
    )
    def test_deeper_inside_an_argument(self, put: Putter, wrap: Any) -> None:
        value = wrap(large())
        expr = llg(t=Task("t", type, value))
        packed = pack_expr(expr, THRESHOLD, put)
        assert len(put) == 1
        assert run(packed, "t") is type(value)
        (node,) = arrive(packed).values()
        assert len(cloudpickle.dumps(packed)) < LARGE * 8
        assert len(references_in(node)) == 1

    def test_shared_parts_stay_shared(self, put: Putter) -> None:
        x = large()
        expr = llg(t=Task("t", lambda v: v[0] is v[1]["x"], [x, {"x": x}]))
        assert run(pack_expr(expr, THRESHOLD, put), "t") is True

    def test_nodes_inside_arguments(self, put: Putter) -> None:
        task = Task("t", lambda xs, d: total(*xs, **d), List(large(), TaskRef("x")),
                    Dict({"y": large(2)}))  # fmt: skip
        packed = pack_expr(llg(t=task, x=DataNode("x", 1)), THRESHOLD, put)
        assert len(put) == 2
        assert run(packed, "t") == 3 * LARGE + 1

    def test_many_small_things_together(self, put: Putter) -> None:
        numbers = [float(i) for i in range(1000)]
        packed = pack_expr(llg(t=Task("t", sum, numbers)), THRESHOLD, put)
        (node,) = arrive(packed).values()
        assert isinstance(node.args[0], PackedNode)
        assert len(put) == 1
        assert run(packed, "t") == sum(numbers)

    def test_what_a_function_closes_over(self, put: Putter) -> None:
        x = large()
        packed = pack_expr(llg(t=Task("t", lambda: total(x))), THRESHOLD, put)
        assert len(put) == 1
        assert run(packed, "t") == LARGE

    def test_a_function_that_tasks_share_is_looked_into_once(self, put: Putter) -> None:
        x = large()

        def scale(factor: int) -> float:
            return total(x) * factor

        tasks = {f"t{n}": Task(f"t{n}", scale, n) for n in range(3)}
        packed = pack_expr(llg(**tasks), THRESHOLD, put)
        assert put.calls == 1
        assert run(packed, "t2") == 2 * LARGE

    def test_coroutine_functions_stay_coroutine_functions(self, put: Putter) -> None:
        x = large()

        async def later(y: int) -> float:
            return total(x) + y

        packed = pack_expr(llg(t=Task("t", later, 1)), THRESHOLD, put)
        (node,) = arrive(packed).values()
        assert node.is_coro
        node.args = tuple(a() if isinstance(a, PackedNode) else a for a in node.args)
        assert asyncio.run(node()) == LARGE + 1

    def test_the_function_keeps_its_name(self, put: Putter) -> None:
        packed = pack_expr(llg(t=Task("t", total, large())), THRESHOLD, put)
        (node,) = arrive(packed).values()
        assert node.func is total

    def test_data_nodes_become_proxies_of_their_own_key(self, put: Putter) -> None:
        expr = llg(x=DataNode("x", large()), t=Task("t", total, TaskRef("x")))
        packed = pack_expr(expr, THRESHOLD, put)
        node = arrive(packed)["x"]
        assert isinstance(node, ReferenceNode)
        assert (node.key, node.form) == ("x", "inside")
        assert run(packed, "t") == LARGE

    def test_data_nodes_with_something_large_inside(self, put: Putter) -> None:
        expr = llg(x=DataNode("x", {"a": large(), "n": 1}))
        packed = pack_expr(expr, THRESHOLD, put)
        node = arrive(packed)["x"]
        assert isinstance(node, PackedNode)
        assert node.key == "x"
        assert run(packed, "x")["n"] == 1

    def test_fused_subgraphs(self, put: Putter) -> None:
        fused = Task.fuse(
            Task("t", total, TaskRef("x")),
            DataNode("x", large()),
        )
        packed = pack_expr(llg(t=fused), THRESHOLD, put)
        assert len(put) == 1
        assert run(packed, "t") == LARGE

    def test_aliases_and_references_are_left_alone(self, put: Putter) -> None:
        expr = llg(x=Task("x", total, large()), y=Alias("y", "x"))
        assert run(pack_expr(expr, THRESHOLD, put), "y") == LARGE

    def test_lazy(self, put: Putter) -> None:
        def look(p: Any) -> Any:
            return isinstance(p, Proxy), daskref.is_resolved(p), float(p.sum())

        expr = llg(t=Task("t", look, daskref.lazy(large())))
        assert run(pack_expr(expr, THRESHOLD, put), "t") == (True, False, LARGE)
        assert len(put) == 1


class TestCollections:
    def test_array(self, put: Putter) -> None:
        x = np.arange(4000.0)
        array = da.from_array(x, chunks=1000).sum()
        packed = pack_expr(collections_to_expr([array]), THRESHOLD, put)
        graph = arrive(packed)
        assert len(put) >= 4
        (key,) = dask.core.flatten(array.__dask_keys__())
        assert run(packed, key) == x.sum()
        assert sum(len(cloudpickle.dumps(node)) for node in graph.values()) < 20_000

    def test_bag(self, put: Putter) -> None:
        bag = db.from_sequence([large(1), large(2)], npartitions=2).map(total)
        expr = collections_to_expr([bag])
        packed = pack_expr(expr, THRESHOLD, put)
        assert len(put) == 2
        assert run(packed, bag.__dask_keys__()[1]) == [2 * LARGE]

    def test_inside_an_array_of_objects(self, put: Putter) -> None:
        array = np.array([large(), None], dtype=object)
        packed = pack_expr(
            llg(t=Task("t", lambda a: total(a[0]), array)), THRESHOLD, put
        )
        assert len(put) == 1
        assert run(packed, "t") == LARGE

    def test_annotations_survive(self, put: Putter) -> None:
        with dask.annotate(priority=5, workers=["alice"]):
            array = da.from_array(np.arange(4000.0), chunks=1000)
        expr = collections_to_expr([array], optimize_graph=False)
        packed = pack_expr(expr, THRESHOLD, put)
        assert isinstance(packed, GraphExpr)
        again = pickle.loads(cloudpickle.dumps(packed)).__dask_annotations__()
        assert again == expr.__dask_annotations__()
        assert set(again) == {"priority", "workers"}


class TestWhatIsNotTouched:
    @pytest.mark.parametrize(
        "value", [1, "x", None, [1, 2], {"a": (1, 2.5)}, np.zeros(10), b"x", range(3)]
    )
    def test_small_values(self, put: Putter, value: Any) -> None:
        expr = llg(t=Task("t", type, value))
        packed = pack_expr(expr, THRESHOLD, put)
        assert put.calls == 0
        assert run(packed, "t") is type(value)

    def test_a_small_graph_is_not_even_pickled(self, put: Putter) -> None:
        expr = llg(t=Task("t", operator.add, 1, 2))
        assert pack_expr(expr, THRESHOLD, put) is expr

    def test_a_small_map_is_not_even_pickled(self, put: Putter) -> None:
        node = pack_argument(large(), THRESHOLD, put)
        for columns in ([1, 2],), (range(2), (np.zeros(3), b"x")), (["x", node],):
            expr = mapped(max, *columns, default=None)
            assert pack_expr(expr, THRESHOLD, put) is expr

    def test_a_map_in_which_something_may_hide_is_scanned(self, put: Putter) -> None:
        x = large()
        for expr in (
            mapped(str, [0, [0, [x]]]),
            mapped(dict, [[], []], y={"x": [x]}),
            mapped(lambda y: total(x, y), [1, 2]),
            mapped(str, np.stack([x, x])),
        ):
            before = put.calls
            packed = pack_expr(expr, THRESHOLD, put)
            assert put.calls > before
            assert str(run(packed, "k1")) == str(run(expr, "k1"))
        assert len(put) == 1

    def test_a_graph_that_was_scanned_is_not_pickled_again(self, put: Putter) -> None:
        class Counts:
            pickled = 0

            def __reduce__(self) -> Any:
                type(self).pickled += 1
                return int, ()

        expr = llg(t=Task("t", type, Counts()))
        packed = pack_expr(expr, THRESHOLD, put)
        assert isinstance(packed, Prepickled)
        assert Counts.pickled == 1
        data = cloudpickle.dumps(packed)
        assert Counts.pickled == 1
        (node,) = pickle.loads(data).__dask_graph__().values()
        assert node.args == (0,)

    def test_large_together_but_each_small(self, put: Putter) -> None:
        expr = llg(**{str(i): Task(f"t{i}", abs, np.full(50, i)) for i in range(40)})
        packed = pack_expr(expr, THRESHOLD, put)
        assert put.calls == 0
        assert run(packed, "t7")[0] == 7

    def test_what_does_not_pickle_is_left_to_dask(self, put: Putter) -> None:
        expr = llg(t=Task("t", type, threading.Lock()))
        assert pack_expr(expr, THRESHOLD, put) is expr
        both = llg(t=Task("t", type, [threading.Lock(), 1]), u=Task("u", abs, large()))
        pack_expr(both, THRESHOLD, put)  # and does not raise

    def test_what_the_store_declines_stays_in_band(self) -> None:
        expr = llg(t=Task("t", total, large(), [large(2)]), x=DataNode("x", large(3)))
        packed = pack_expr(expr, THRESHOLD, lambda obj: None)
        assert run(packed, "t") == 3 * LARGE
        assert isinstance(arrive(packed)["x"], DataNode)

    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x]])
    def test_errors_of_the_store_are_not_swallowed(self, wrap: Any) -> None:
        def fail(obj: Any) -> Any:
            raise ConnectorError("<connector>", "it is full")

        with pytest.raises(ConnectorError, match="full"):
            pack_expr(llg(t=Task("t", total, wrap(large()))), THRESHOLD, fail)


class TestArguments:
    def test_a_large_one_becomes_a_node(self, put: Putter) -> None:
        node = pack_argument(large(), THRESHOLD, put)
        assert isinstance(node, ReferenceNode)
        assert node.form == "value"
        assert parse_input([1, node]).dependencies == frozenset()

    @pytest.mark.parametrize("value", [1, [1], "x", np.zeros(3), None])
    def test_a_small_one_stays(self, put: Putter, value: Any) -> None:
        assert pack_argument(value, THRESHOLD, put) is value

    def test_declined(self) -> None:
        x = large()
        assert pack_argument(x, THRESHOLD, lambda obj: None) is x
        lazy = daskref.lazy(x)
        assert pack_argument(lazy, THRESHOLD, lambda obj: None) is lazy

    def test_lazy_is_put_whatever_its_size(self, put: Putter) -> None:
        node = pack_argument(daskref.lazy(1), THRESHOLD, put)
        assert isinstance(node, ReferenceNode)
        assert node.form == "proxy"
        future = daskref.lazy(TaskRef("x"))
        assert pack_argument(future, THRESHOLD, put) is future


def test_is_small_never_says_so_of_something_large() -> None:
    for value in (large(), [large()], {"x": large()}, "x" * 2000, b"x" * 2000,
                  [[large()]], list(range(100)), object(),
                  np.array([large(), 1], dtype=object)):  # fmt: skip
        assert not is_small(value, THRESHOLD)
    for value in (1, None, "x", [1, "x"], {"a": 1}, np.zeros(3), TaskRef("x")):
        assert is_small(value, THRESHOLD)


def test_execution_as_dask_does_it_itself(put: Putter) -> None:
    expr = llg(x=Task("x", total, large()), y=Task("y", total, TaskRef("x"), large(2)))
    graph = arrive(pack_expr(expr, THRESHOLD, put))
    assert execute_graph(graph)["y"] == 3 * LARGE
