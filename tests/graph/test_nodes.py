"""Graph nodes that stand for stored values."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest
from dask._task_spec import DataNode, Task, TaskRef, parse_input
from dask.sizeof import sizeof
from dask.tokenize import tokenize

import daskref
from daskref.connectors import LocalConnector
from daskref.exceptions import ResolveError
from daskref.graph import nodes
from daskref.graph.lazy import Constant, Lazy
from daskref.graph.nodes import (
    PackedNode,
    Place,
    ReferenceNode,
    StoredNode,
    nodes_in,
    references_in,
)
from daskref.proxy import Proxy, extract, get_factory, is_resolved
from daskref.store import Store
from daskref.store.factory import is_transparent, reveal


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("nodes", LocalConnector(), register=True) as store:
        yield store


@pytest.fixture
def reference(store: Store) -> Any:
    return store.put_reference(np.arange(1000), "token")


def packed(
    store: Store, large: bool = False, task: Any = None, dependencies: Any = ()
) -> PackedNode:
    """Return a node for a task that returns ``{"a": zeros, "b": zeros, "n": 5}``."""
    zeros = store.put_reference([0] * 1000, "zeros")
    both = store.put_reference(([1], [2]), "both")
    given: Any = object(), object(), object()

    class Packer(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> int | None:
            return next((n for n, one in enumerate(given) if obj is one), None)

    file = io.BytesIO()
    if task is None:
        task = Task("k", dict, a=given[0], b=given[0], c=given[1], d=given[2], n=5)
    Packer(file).dump(task)
    data: Any = file.getvalue()
    if large:
        data = store.put_reference(data, "data")
    places = (Place(0), Place(1, 1), Place(1, 0, False))
    return PackedNode("k", data, places, (zeros, both), frozenset(dependencies))


class TestReferenceNode:
    def test_the_call_returns_a_proxy_for_the_next_task_boundary(
        self, reference: Any
    ) -> None:
        proxy = ReferenceNode("k", reference)()
        assert isinstance(proxy, Proxy)
        assert not is_resolved(proxy)
        assert is_transparent(proxy)
        first, second = reveal(proxy), reveal(proxy)
        assert type(first) is np.ndarray
        first += 1
        assert second[-1] == 999

    def test_the_call_returns_the_value_on_a_worker_without_the_plugin(
        self, reference: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody would resolve the proxy for its tasks."""
        worker = SimpleNamespace(plugins={})
        monkeypatch.setattr(nodes, "get_worker", lambda: worker)
        assert type(ReferenceNode("k", reference)()) is np.ndarray
        worker.plugins["daskref"] = None
        assert isinstance(ReferenceNode("k", reference)(), Proxy)

    def test_travels(self, reference: Any) -> None:
        node = pickle.loads(pickle.dumps(ReferenceNode("k", reference)))
        assert (node.key, node.reference) == ("k", reference)
        assert node.dependencies == frozenset()
        assert node.copy().reference == reference

    def test_substitute_gives_it_another_key_only(self, reference: Any) -> None:
        node = ReferenceNode("k", reference)
        assert node.substitute({"k": "x"}) is node
        assert node.substitute({}, key="k") is node
        other = node.substitute({}, key="other")
        assert (other.key, node.key) == ("other", "k")

    def test_is_inert(self, reference: Any, store: Store) -> None:
        node = ReferenceNode("k", reference)
        gets = store.counters.snapshot()["gets"]
        assert sizeof(node) < 2000
        assert "numpy.ndarray (1000,)" in repr(node)
        assert tokenize(node) == tokenize(ReferenceNode("other", reference))
        assert not node.is_coro
        assert node.data_producer
        assert store.counters.snapshot()["gets"] == gets

    def test_what_is_gone_says_so(self, reference: Any, store: Store) -> None:
        store.evict(reference.key)
        with pytest.raises(ResolveError, match="evicted"):
            reveal(ReferenceNode("k", reference)())


class TestPackedNode:
    @pytest.mark.parametrize("large", [False, True])
    def test_the_call_runs_the_task(self, store: Store, large: bool) -> None:
        node = pickle.loads(pickle.dumps(packed(store, large)))
        value = node()
        assert value["n"] == 5
        assert value["a"] == [0] * 1000
        # the same object in two places stays one object
        assert value["a"] is value["b"]
        assert (value["c"], value["d"]) == ([2], [1])  # stored together
        assert node()["a"] is not value["a"]

    def test_holds_all_its_references(self, store: Store) -> None:
        assert len(packed(store).references) == 2
        node = packed(store, large=True)
        assert set(node.references) == {node.data, *node.inside}
        assert node.copy().references == node.references
        assert node.substitute({}, key="new").references == node.references
        assert "Reference" in repr(node)

    def test_its_token_is_of_its_content(self, store: Store) -> None:
        one, two = packed(store), packed(store)
        assert one.references != two.references
        assert tokenize(one) == tokenize(two)

    def test_its_size_is_that_of_what_it_carries(self, store: Store) -> None:
        node = packed(store)
        assert len(node.data) < sizeof(node) < len(node.data) + 2000
        assert sizeof(packed(store, large=True)) < 2000

    def test_dependencies_are_handed_to_the_task(self, store: Store) -> None:
        task = Task("k", lambda *values: values, TaskRef("x"), 1, TaskRef("y"))
        node = packed(store, task=task, dependencies=["x", "y"])
        assert node.dependencies == {"x", "y"}
        assert node({"x": 5, "y": 6}) == (5, 1, 6)

    def test_dependencies_are_substituted_when_it_runs(self, store: Store) -> None:
        task = Task("k", lambda *values: values, TaskRef("x"), TaskRef("y"))
        node = packed(store, task=task, dependencies=["x", "y"])
        assert node.substitute({"z": "a"}) is node
        renamed = node.substitute({"x": "x2", "z": "a"}, key="k2")
        assert (renamed.key, node.key) == ("k2", "k")
        assert renamed.dependencies == {"x2", "y"}
        again = renamed.substitute({"x2": Task(None, abs, TaskRef("w")), "y": "y2"})
        assert again.dependencies == {"w", "y2"}
        again = pickle.loads(cloudpickle.dumps(again))
        assert again({"w": -5, "y2": 6}) == (5, 6)
        assert node({"x": 1, "y": 2}) == (1, 2)


class TestLazy:
    def test_a_value_arrives_as_a_resolved_proxy(self) -> None:
        proxy = daskref.lazy([1, 2])()
        assert isinstance(proxy, Proxy)
        assert proxy == [1, 2]

    def test_a_task_is_depended_on(self) -> None:
        lazy = Lazy(parse_input(TaskRef("x")))
        assert lazy.dependencies == {"x"}
        assert extract(lazy({"x": 5})) == 5
        other = lazy.substitute({"x": "y"})
        assert other.dependencies == {"y"}
        assert extract(other({"y": 6})) == 6

    def test_travels(self) -> None:
        lazy = pickle.loads(pickle.dumps(Lazy([1])))
        assert lazy.value == [1]
        assert lazy.copy().value is lazy.value
        assert lazy.substitute({"x": "y"}) is lazy
        assert repr(lazy) == "Lazy(list)"
        assert tokenize(Lazy([1])) == tokenize(Lazy([1])) != tokenize(Lazy([2]))

    def test_its_proxy_travels_as_the_value(self) -> None:
        proxy = pickle.loads(pickle.dumps(Lazy([1])()))
        assert isinstance(get_factory(proxy), Constant)
        assert extract(proxy) == [1]


def test_nodes_are_found_wherever_they_are_put(store: Store, reference: Any) -> None:
    inner = packed(store)
    found = [
        ReferenceNode(None, reference),
        Lazy(ReferenceNode(None, reference)),
        Task("t", print, ReferenceNode(None, reference), 1),
        Task("t", print, sep=ReferenceNode(None, reference)),
        Task("t", print, Task(None, print, ReferenceNode(None, reference))),
    ]
    for node in found:
        assert references_in(node) == {reference}
    assert references_in(Task("t", print, inner)) == set(inner.inside)
    fused = Task.fuse(
        Task("x", abs, TaskRef("y")),
        ReferenceNode("y", reference),
    )
    assert references_in(fused) == {reference}
    for node in (1, None, {"x": 1}, DataNode("x", 1), Task("t", print, 1), TaskRef(1)):
        assert references_in(node) == set()
    assert [type(n) for n in nodes_in(inner)] == [PackedNode]
    assert issubclass(PackedNode, StoredNode)
