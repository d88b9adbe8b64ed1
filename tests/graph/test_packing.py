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
import pandas as pd
import pyarrow as pa
import pytest
from dask._expr import LLGExpr
from dask._task_spec import (
    Alias,
    DataNode,
    Dict,
    List,
    Task,
    TaskRef,
)
from dask.base import collections_to_expr
from distributed.client import _MapExpr

import daskref
from daskref.connectors import LocalConnector
from daskref.exceptions import ConnectorError
from daskref.graph.expressions import SHARED, GraphExpr, Prepickled, pack_expr
from daskref.graph.literals import is_small
from daskref.graph.nodes import PackedNode, ReferenceNode, references_in
from daskref.graph.packing import Packer
from daskref.objects.codec import Encoded
from daskref.proxy import Proxy
from daskref.store import Store
from daskref.store.factory import reveal

#: Above what small tasks pickle to, the long name of this module included.
THRESHOLD = 1200
LARGE = 500  # elements of 8 bytes

Pair = namedtuple("Pair", "a b")


class Putter:
    """Puts as a client does, each content once; counts."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls = 0
        self.by_token: dict[str, Any] = {}

    def __call__(self, obj: Any, encoded: Encoded) -> Any:
        self.calls += 1
        token = encoded.token
        if token not in self.by_token:
            self.by_token[token] = self.store.put_reference(obj, token, encoded)
        return self.by_token[token]

    def __len__(self) -> int:
        return len(self.by_token)


@pytest.fixture
def put() -> Iterator[Putter]:
    with Store("graph", LocalConnector(), register=True) as store:
        yield Putter(store)


def large(fill: float = 1.0) -> Any:
    return np.full(LARGE, fill)


def pack(expr: Any, put: Any) -> Any:
    """Pack as one call to a client does."""
    return pack_expr(expr, Packer(THRESHOLD, put))


def decline(obj: Any, encoded: Encoded) -> None:
    """Put nothing."""


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
        packed = pack(llg(t=task), put)
        (node,) = arrive(packed).values()
        assert isinstance(node, PackedNode)
        assert (node.key, node.dependencies) == ("t", frozenset())
        assert len(references_in(node)) == len(put) == 2
        assert run(packed, "t") == 3 * LARGE + 1
        assert isinstance(task.args[0], np.ndarray)  # the caller's is not changed

    def test_the_same_value_is_put_once(self, put: Putter) -> None:
        x = large()
        tasks = {str(i): Task(f"t{i}", total, x, i) for i in range(10)}
        packed = pack(llg(**tasks), put)
        assert len(put) == 1
        assert run(packed, "t9") == LARGE + 9

    def test_dependencies_stay(self, put: Putter) -> None:
        x = Task("x", total, large())
        y = Task("y", total, TaskRef("x"), large(2))
        packed = pack(llg(x=x, y=y), put)
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
        packed = pack(expr, put)
        assert len(put) == 1
        assert run(packed, "t") is type(value)
        (node,) = arrive(packed).values()
        assert len(cloudpickle.dumps(packed)) < LARGE * 8
        assert len(references_in(node)) == 1

    def test_shared_parts_stay_shared(self, put: Putter) -> None:
        x = large()
        expr = llg(t=Task("t", lambda v: v[0] is v[1]["x"], [x, {"x": x}]))
        assert run(pack(expr, put), "t") is True

    def test_nodes_inside_arguments(self, put: Putter) -> None:
        task = Task("t", lambda xs, d: total(*xs, **d), List(large(), TaskRef("x")),
                    Dict({"y": large(2)}))  # fmt: skip
        packed = pack(llg(t=task, x=DataNode("x", 1)), put)
        assert len(put) == 2
        assert run(packed, "t") == 3 * LARGE + 1

    def test_many_small_things_together(self, put: Putter) -> None:
        numbers = [float(i) for i in range(1000)]
        packed = pack(llg(t=Task("t", sum, numbers)), put)
        (node,) = arrive(packed).values()
        assert isinstance(node, PackedNode)
        assert len(put) == 1
        assert run(packed, "t") == sum(numbers)

    def test_what_a_function_closes_over(self, put: Putter) -> None:
        x = large()
        packed = pack(llg(t=Task("t", lambda: total(x))), put)
        assert len(put) == 1
        assert run(packed, "t") == LARGE

    def test_what_a_function_that_tasks_share_closes_over(self, put: Putter) -> None:
        x = large()

        def scale(factor: int) -> float:
            return total(x) * factor

        tasks = {f"t{n}": Task(f"t{n}", scale, n) for n in range(3)}
        packed = pack(llg(**tasks), put)
        assert len(put) == 1
        assert run(packed, "t2") == 2 * LARGE

    def test_coroutine_functions_stay_coroutine_functions(self, put: Putter) -> None:
        x = large()

        async def later(y: int) -> float:
            return total(x) + y

        packed = pack(llg(t=Task("t", later, 1)), put)
        (node,) = arrive(packed).values()
        assert node.is_coro
        assert asyncio.run(node()) == LARGE + 1

    def test_the_task_is_shown_by_its_function(self, put: Putter) -> None:
        packed = pack(llg(t=Task("t", total, large())), put)
        (node,) = arrive(packed).values()
        assert repr(node) == "<Task 't' total(...)>"

    def test_data_nodes_become_proxies_of_their_own_key(self, put: Putter) -> None:
        expr = llg(x=DataNode("x", large()), t=Task("t", total, TaskRef("x")))
        packed = pack(expr, put)
        node = arrive(packed)["x"]
        assert isinstance(node, ReferenceNode)
        assert node.key == "x"
        assert run(packed, "t") == LARGE

    def test_data_nodes_with_something_large_inside(self, put: Putter) -> None:
        expr = llg(x=DataNode("x", {"a": large(), "n": 1}))
        packed = pack(expr, put)
        node = arrive(packed)["x"]
        assert isinstance(node, ReferenceNode)  # as a whole: each reader has its own
        assert run(packed, "x")["n"] == 1

    def test_fused_subgraphs(self, put: Putter) -> None:
        fused = Task.fuse(
            Task("t", total, TaskRef("x")),
            DataNode("x", large()),
        )
        packed = pack(llg(t=fused), put)
        assert len(put) == 1
        assert run(packed, "t") == LARGE

    def test_aliases_and_references_are_left_alone(self, put: Putter) -> None:
        expr = llg(x=Task("x", total, large()), y=Alias("y", "x"))
        assert run(pack(expr, put), "y") == LARGE

    def test_lazy(self, put: Putter) -> None:
        def look(p: Any) -> Any:
            return isinstance(p, Proxy), daskref.is_resolved(p), float(p.sum())

        expr = llg(t=Task("t", look, daskref.lazy(large())))
        assert run(pack(expr, put), "t") == (True, False, LARGE)
        assert len(put) == 1


class TestCollections:
    def test_array(self, put: Putter) -> None:
        x = np.arange(4000.0)
        array = da.from_array(x, chunks=1000).sum()
        packed = pack(collections_to_expr([array]), put)
        graph = arrive(packed)
        assert len(put) >= 4
        (key,) = dask.core.flatten(array.__dask_keys__())
        assert run(packed, key) == x.sum()
        assert sum(len(cloudpickle.dumps(node)) for node in graph.values()) < 20_000

    def test_bag(self, put: Putter) -> None:
        bag = db.from_sequence([large(1), large(2)], npartitions=2).map(total)
        expr = collections_to_expr([bag])
        packed = pack(expr, put)
        assert len(put) == 2
        assert run(packed, bag.__dask_keys__()[1]) == [2 * LARGE]

    def test_inside_an_array_of_objects(self, put: Putter) -> None:
        array = np.array([large(), None], dtype=object)
        packed = pack(llg(t=Task("t", lambda a: total(a[0]), array)), put)
        assert len(put) == 1
        assert run(packed, "t") == LARGE

    def test_annotations_survive(self, put: Putter) -> None:
        with dask.annotate(priority=5, workers=["alice"]):
            array = da.from_array(np.arange(4000.0), chunks=1000)
        expr = collections_to_expr([array], optimize_graph=False)
        packed = pack(expr, put)
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
        packed = pack(expr, put)
        assert put.calls == 0
        assert run(packed, "t") is type(value)

    def test_a_small_graph_is_not_even_pickled(self, put: Putter) -> None:
        expr = llg(t=Task("t", operator.add, 1, 2))
        assert pack(expr, put) is expr

    def test_a_small_map_is_not_even_pickled(self, put: Putter) -> None:
        for columns in ([1, 2],), (range(2), (np.zeros(3), b"x")), (["x", None],):
            expr = mapped(max, *columns, default=None)
            assert pack(expr, put) is expr

    def test_a_map_in_which_something_may_hide_is_scanned(self, put: Putter) -> None:
        x = large()
        for expr in (
            mapped(str, [0, [0, [x]]]),
            mapped(dict, [[], []], y={"x": [x]}),
            mapped(lambda y: total(x, y), [1, 2]),
            mapped(str, np.stack([x, x])),
        ):
            before = put.calls
            packed = pack(expr, put)
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
        packed = pack(expr, put)
        assert isinstance(packed, Prepickled)
        assert Counts.pickled == 1
        data = cloudpickle.dumps(packed)
        assert Counts.pickled == 1
        (node,) = pickle.loads(data).__dask_graph__().values()
        assert node.args == (0,)

    def test_large_together_but_each_small(self, put: Putter) -> None:
        expr = llg(**{str(i): Task(f"t{i}", abs, np.full(50, i)) for i in range(40)})
        packed = pack(expr, put)
        assert put.calls == 0
        assert run(packed, "t7")[0] == 7

    def test_what_does_not_pickle_is_left_to_dask(self, put: Putter) -> None:
        expr = llg(t=Task("t", type, threading.Lock()))
        assert pack(expr, put) is expr
        both = llg(t=Task("t", type, [threading.Lock(), 1]), u=Task("u", abs, large()))
        pack(both, put)  # and does not raise
        frame = pd.DataFrame({"a": large()})
        frame.attrs["lock"] = threading.Lock()
        expr = llg(t=Task("t", type, [frame, large()]))
        assert pack(expr, put) is expr

    def test_what_the_store_declines_stays_in_band(self) -> None:
        expr = llg(t=Task("t", total, large(), [large(2)]), x=DataNode("x", large(3)))
        packed = pack(expr, decline)
        assert run(packed, "t") == 3 * LARGE
        assert isinstance(arrive(packed)["x"], DataNode)

    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x]])
    def test_errors_of_the_store_are_not_swallowed(self, wrap: Any) -> None:
        def fail(obj: Any, encoded: Any) -> Any:
            raise ConnectorError("<connector>", "it is full")

        with pytest.raises(ConnectorError, match="full"):
            pack(llg(t=Task("t", total, wrap(large()))), fail)


class Box:
    """A class that nobody has heard of."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)

    def get(self, name: str) -> Any:
        return getattr(self, name)


class TestIdentity:
    """What is one object in a task arrives as one, and nothing else does."""

    def same(self, put: Putter, func: Any, *args: Any, **kwargs: Any) -> Any:
        packed = pack(llg(t=Task("t", func, *args, **kwargs)), put)
        assert len(put) > 0
        return run(packed, "t")

    def test_equal_arrays_are_two(self, put: Putter) -> None:
        def write(pair: Any) -> float:
            pair[0][0] = 5
            return float(pair[1][0])

        assert self.same(put, write, [large(), large()]) == 1
        assert len(put) == 1  # over one stored copy

    def test_one_array_in_two_arguments(self, put: Putter) -> None:
        x = large()
        assert self.same(put, lambda a, b, c: a is b is c["x"], x, x, c={"x": x})

    def test_one_array_in_an_argument_and_a_closure(self, put: Putter) -> None:
        x = large()
        assert self.same(put, lambda a: a is x, x)

    def test_one_list_in_two_arguments(self, put: Putter) -> None:
        x = [large(), 1]
        assert self.same(put, lambda a, b: a is b, x, x)

    def test_a_method_and_what_its_object_holds(self, put: Putter) -> None:
        box = Box(x=large(), n=1)
        assert self.same(put, lambda get, x: get("x") is x, box.get, box.x)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_equal_objects_are_two(self, put: Putter, n: int) -> None:
        boxes = [Box(x=large(), y=[large()] * n) for _ in range(2)]

        def apart(a: Any, b: Any) -> bool:
            return a is not b and a.x is not b.x and len({*map(id, a.y)}) == 1

        assert self.same(put, apart, *boxes)
        assert len(put) == 1

    def test_a_frame_and_its_index(self, put: Putter) -> None:
        frame = pd.DataFrame({"a": large()}, index=np.arange(LARGE) * 2)
        assert self.same(put, lambda f, i: f.index is i, frame, frame.index)

    def test_two_frames_of_one_index_are_stored_together(self, put: Putter) -> None:
        index = pd.Index(np.arange(LARGE) * 2)
        first, second = (pd.DataFrame({"a": large(i)}, index=index) for i in range(2))

        def look(a: Any, b: Any) -> Any:
            return a.index is b.index, a.a.sum(), b.a.sum()

        assert self.same(put, look, first, second) == (True, 0, LARGE)
        assert len(put) == 1
        again = pack(llg(t=Task("t", look, first, second)), put)
        assert len(put) == 1
        assert len(cloudpickle.dumps(again)) < 4000

    def test_two_frames_that_share_nothing_are_stored_apart(self, put: Putter) -> None:
        frames = [pd.DataFrame({"a": large(i)}) for i in range(3)]
        for other in frames[1:]:
            self.same(put, lambda a, b: a is b, frames[0], other)
        assert len(put) == 3

    def test_three_that_share_in_a_chain(self, put: Putter) -> None:
        parts: Any = [list(range(LARGE + i)) for i in range(2)]
        boxes = [Box(p=parts[0]), Box(p=parts[1], n=[0] * LARGE), Box(p=parts)]

        def look(a: Any, b: Any, c: Any) -> bool:
            return a.p is c.p[0] and b.p is c.p[1]

        assert self.same(put, look, *boxes)

    def test_an_array_of_a_frame_beside_it(self, put: Putter) -> None:
        x = large()
        whole: Any = np.ma.array(x, mask=np.arange(LARGE) % 2 == 0)
        whole.note = x
        assert self.same(put, lambda w, x: (w.sum(), x.sum()), whole, x)

    def test_an_object_that_holds_a_large_one_and_itself(self, put: Putter) -> None:
        box = Box(x=large())
        box.me = [box]
        assert self.same(put, lambda b: b.me[0] is b, box)

    def test_a_small_part_that_two_large_ones_share_with_the_rest(
        self, put: Putter
    ) -> None:
        log: list[int] = []
        boxes = [Box(log=log, n=list(range(LARGE + i))) for i in range(2)]

        def look(a: Any, b: Any, c: Any) -> bool:
            c.append(1)
            return a.log == b.log == [1]

        assert self.same(put, look, *boxes, log)


class Tagged:
    """A class whose objects are equal by value, and can be changed."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tagged) and self.value == other.value

    def __hash__(self) -> int:
        return 1

    def __reduce__(self) -> Any:
        return Tagged, (self.value,)


class TestIdentityOfWhatHasAHash(TestIdentity):
    """A hash by value does not mean that an object cannot be changed."""

    def test_an_item_of_a_long_list(self, put: Putter) -> None:
        many = [Tagged(i) for i in range(1000)]
        assert self.same(put, lambda xs, x: xs[7] is x, many, many[7])

    def test_items_of_two_long_lists(self, put: Putter) -> None:
        shared = Tagged(1)
        lists = [[*range(1000 + i), shared] for i in range(2)]
        assert self.same(put, lambda a, b: a[-1] is b[-1], *lists)

    @pytest.mark.parametrize("by_value", [False, True])
    def test_a_model_and_its_optimizer(self, put: Putter, by_value: bool) -> None:
        torch = pytest.importorskip("torch")
        model = torch.nn.Linear(50, 50)
        if by_value:

            class Local(torch.nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.inner = torch.nn.Linear(50, 50)

            model = Local()
        optimizer = torch.optim.Adam(model.parameters())

        def linked(m: Any, o: Any, ps: Any) -> bool:
            held = o.param_groups[0]["params"]
            return all(map(operator.is_, m.parameters(), held)) and held[0] is ps[0]

        parameters = list(model.parameters())
        assert self.same(put, linked, model, optimizer, parameters)
        assert len(put) == 1
        packed = pack(llg(t=Task("t", linked, model, optimizer, [parameters[0]])), put)
        assert len(cloudpickle.dumps(packed)) < 4 * THRESHOLD

    def test_a_small_tensor_in_a_long_list(self, put: Putter) -> None:
        torch = pytest.importorskip("torch")
        x = torch.zeros(4)
        assert self.same(put, lambda xs, x: xs[0] is x, [x, *range(1000)], x)


class TestApart:
    """What is stored beside a task, and what with it."""

    def stored(self, put: Putter, *tasks: Any) -> int:
        packed = pack(llg(**{t.key: t for t in tasks}), put)
        for task in tasks:
            run(packed, task.key)
        assert len(cloudpickle.dumps(packed)) < THRESHOLD * (2 + len(tasks))
        return len(put)

    def test_an_object_that_is_large_by_many_small_parts(self, put: Putter) -> None:
        box = Box(parts=[Box(x=np.zeros(10)) for _ in range(100)])
        tasks = [Task(f"t{i}", lambda b, i: len(b.parts), box, i) for i in range(3)]
        assert self.stored(put, *tasks) == 1

    def test_an_object_whose_large_parts_are_stored_of_their_own(
        self, put: Putter
    ) -> None:
        x = large()
        tasks = [Task(f"t{i}", str, Box(x=x, i=i)) for i in range(3)]
        assert self.stored(put, *tasks) == 1

    @pytest.mark.parametrize("wrap", [lambda x, i: [x, i], lambda x, i: {"x": x, 1: i}])
    def test_what_is_in_short_containers(self, put: Putter, wrap: Any) -> None:
        many = list(range(1000))
        tasks = [Task(f"t{i}", len, wrap(many, i)) for i in range(3)]
        assert self.stored(put, *tasks) == 1

    def test_what_functions_take_along(self, put: Putter) -> None:
        many = list(range(1000))
        box = Box(x=many)
        tasks = [
            Task("a", lambda: len(many)),
            Task("b", functools.partial(len, many)),
            Task("c", box.get, "x"),
            Task("d", lambda x=many: len(x)),
        ]
        assert self.stored(put, *tasks) == 2  # the list, and the box

    def test_a_slice_of_arrow_does_not_bring_the_whole(self, put: Putter) -> None:
        part = pa.array(range(100_000)).slice(10, 200)
        self.stored(put, Task("t", len, part))
        assert all(each.nbytes < 4000 for each in put.by_token.values())


class TestMap:
    """Keyword arguments that the tasks of a ``map`` share."""

    @pytest.mark.parametrize("declines", [False, True])
    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x, x], lambda x: {1: x}])
    def test_each_task_has_its_own(
        self, put: Putter, wrap: Any, declines: bool
    ) -> None:
        def write(i: int, kw: Any) -> Any:
            if type(kw) is not np.ndarray:
                (kw, *more) = kw if type(kw) is list else kw.values()
                assert all(each is kw for each in more)
            kw += 1
            return float(kw[0])

        expr = mapped(write, [0, 1], kw=wrap(np.zeros(SHARED)))
        packer = Packer(10 * SHARED, decline if declines else put)
        packed = pack_expr(expr, packer)
        graph = arrive(packed)
        shared = {k: node(()) for k, node in graph.items() if type(node) is DataNode}
        assert len(shared) == (1 if declines else 0)
        assert len(put) == (0 if declines else 1)
        for key in ("k0", "k1"):
            node = graph[key]
            for _ in range(2):
                assert node({k: shared[k] for k in node.dependencies}) == 1
        nbytes = sum(len(cloudpickle.dumps(graph[key])) for key in ("k0", "k1"))
        assert nbytes < 10_000

    def test_futures_among_them_are_depended_on(self, put: Putter) -> None:
        expr = mapped(total, [0, 1], y=[TaskRef("x"), np.zeros(SHARED)])
        for node in arrive(pack(expr, put)).values():
            assert node.dependencies == {"x"}


class Watched(Task):
    """A task that a scheduler's plugin knows by its type, as that of a P2P shuffle."""

    __slots__ = ("spec",)

    def __init__(self, *args: Any, spec: Any, **kwargs: Any) -> None:
        self.spec = spec
        super().__init__(*args, **kwargs)


def test_tasks_of_other_types_are_left_alone(put: Putter) -> None:
    watched = Watched("w", total, large(), [large(2)] * 2, spec=large(3))
    graph = arrive(pack(llg(w=watched, t=Task("t", total, large())), put))
    assert type(graph["w"]) is Watched
    assert graph["w"].spec[0] == 3
    assert graph["w"]() == watched()
    assert type(graph["t"]) is PackedNode


@pytest.mark.parametrize("produces", [False, True])
def test_tasks_that_load_data_stay_such(put: Putter, produces: bool) -> None:
    task = Task("t", total, large(), TaskRef("x"), _data_producer=produces)
    node = arrive(pack(llg(t=task), put))["t"]
    assert type(node) is PackedNode
    for each in (node, node.copy(), node.substitute({"x": "y"})):
        assert each.data_producer is produces


class Counted:
    """Counts how often it is pickled."""

    times = 0

    def __reduce__(self) -> Any:
        self.times += 1
        return Counted, ()


class TestNames:
    """Hashes of calls, in the place of Dask's where something large is in them."""

    def token(self, *args: Any, **kwargs: Any) -> str | None:
        return Packer(THRESHOLD, decline).token(total, args, kwargs)

    def test_of_small_ones_there_is_none(self) -> None:
        for args in ((), (1,), ("x", [1]), (object(), np.zeros(3)), (Box(x=1),)):
            assert self.token(*args) is None
        assert self.token(threading.Lock(), large()) is None  # does not pickle

    def test_equal_content_has_equal_names(self) -> None:
        for make in (
            lambda: large(),
            lambda: [large(), 1],
            lambda: Box(x=large(), y=b"x" * 2000),
            lambda: pd.DataFrame({"a": large()}),
            lambda: list(range(1000)),
        ):
            assert self.token(make(), 1) == self.token(make(), 1) is not None
            assert len({self.token(make(), 1), self.token(make(), 2),
                        self.token(1, make()), self.token(x=make())}) == 4  # fmt: skip

    def test_other_content_has_another(self) -> None:
        x = np.arange(LARGE * 1.0)
        tokens = {self.token(x), self.token(x[::-1]), self.token(x.astype("i8")),
                  self.token(x.reshape(2, -1)), self.token(x, x), self.token([x]),
                  self.token(large(2)), self.token(x.view(np.recarray))}  # fmt: skip
        assert len(tokens) == 8

    def test_the_order_of_keywords_does_not_count(self) -> None:
        x = large()
        assert self.token(x=x, y=1) == self.token(y=1, x=x) is not None

    def test_futures_count_by_their_keys(self) -> None:
        x = large()
        tokens = [self.token(x, [TaskRef(key)]) for key in ("a", "a", "b")]
        assert tokens[0] == tokens[1] != tokens[2]

    def test_of_a_map(self) -> None:
        packer = Packer(THRESHOLD, decline)
        assert packer.tokens(total, [[1, 2], [3, 4]], {}) is None
        rows = [[large(), large(2), large()], [1, 1, 1]]
        tokens = packer.tokens(total, rows, {"y": 1})
        assert tokens is not None
        assert tokens[0] == tokens[2] != tokens[1]
        other = packer.tokens(total, rows, {"y": 2})
        assert not {*tokens} & {*(other or ())}

    def test_what_is_small_is_pickled_once_for_it(self) -> None:
        counted = Counted()
        assert self.token(counted, [counted], Box(x=counted)) is None
        assert counted.times == 1

    def test_nothing_is_put(self, put: Putter) -> None:
        assert Packer(THRESHOLD, put).token(total, [large()], {})
        assert put.calls == 0


class Raises:
    """Says nothing about itself."""

    dtype = "float64"

    def __init__(self, x: Any) -> None:
        self.__dict__["x"] = x

    def _refuse(self, *args: Any) -> Any:
        raise RuntimeError("the user's own")

    nbytes = shape = property(_refuse)
    __len__ = __hash__ = __eq__ = __bool__ = __sizeof__ = _refuse


def test_what_says_nothing_of_itself_travels(put: Putter) -> None:
    for x in (1, large(), [0] * 1000):
        packed = pack(llg(t=Task("t", lambda r: type(r).__name__, Raises(x))), put)
        assert run(packed, "t") == "Raises"
    assert len(put) == 2


def test_is_small_never_says_so_of_something_large() -> None:
    for value in (large(), [large()], {"x": large()}, "x" * 2000, b"x" * 2000,
                  [[large()]], list(range(100)), object(),
                  np.array([large(), 1], dtype=object)):  # fmt: skip
        assert not is_small(value, THRESHOLD)
    for value in (1, None, "x", [1, "x"], {"a": 1}, np.zeros(3)):
        assert is_small(value, THRESHOLD)
