"""The task boundary: Dask keeps proxies, user functions get values.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================  =========================================================
name                        what for
==========================  =========================================================
``dask._task_spec``         whose frames tracebacks leave out
``_task_spec.GraphNode``    base of the boundary, with ``_dependencies``
==========================  =========================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dask import _task_spec
from dask._task_spec import GraphNode
from dask.tokenize import tokenize
from distributed import Reschedule

from daskref.exceptions import ResolveError
from daskref.graph.frames import hidden_like
from daskref.graph.nodes import PackedNode
from daskref.store.factory import is_recomputed, is_transparent, reveal
from daskref.store.mapped import Mapped, noting
from daskref.worker._spares import Spare, Spares

#: ``async (function, *arguments) -> result``: run a blocking function in a thread.
Run = Callable[..., Any]
#: ``(key, result, mapped) -> None``: handle a task's result.
Keep = Callable[[Any, Any, list[Mapped]], None]


class Boundary(GraphNode):
    """A graph node whose dependencies arrive as values.

    Parameters
    ----------
    inner
        The node that Dask was about to execute.
    run
        For coroutine functions, which execute on the event loop.
    keep
        Called off the event loop, before the task ends: then its inputs may be deleted.
    spares
        The source of objects that an earlier task left unchanged.
    """

    __slots__ = ("inner", "keep", "run", "spares")

    inner: GraphNode
    run: Run | None
    keep: Keep | None
    spares: Spares | None

    def __init__(
        self,
        inner: GraphNode,
        run: Run | None = None,
        keep: Keep | None = None,
        spares: Spares | None = None,
    ) -> None:
        self.key = inner.key
        self.inner = inner
        self.run = run
        self.keep = keep
        self.spares = spares
        self._dependencies = inner.dependencies

    @property
    def data_producer(self) -> bool:
        return bool(self.inner.data_producer)

    @property
    def is_coro(self) -> bool:
        return bool(self.inner.is_coro)

    def copy(self) -> Boundary:
        return Boundary(self.inner, self.run, self.keep, self.spares)

    @hidden_like(_task_spec)
    def __call__(self, values: Any = ()) -> Any:
        if self.is_coro and self.run is not None:
            return self._call_coroutine(self.run, values)
        with noting() as mapped:
            if self.spares is None:
                result = self.inner(_revealed(values))
            else:
                result = self._call_with_spares(self.spares, values)
        if self.keep is not None:
            self.keep(self.key, result, mapped)
        return result

    @hidden_like(_task_spec)
    def _call_with_spares(self, spares: Spares, values: Any) -> Any:
        taken: dict[Any, Spare] = {}
        result = self.inner(_revealed(values, spares, taken))
        # with the result at hand: it may hold parts of them
        for key, spare in taken.items():
            spares.give_back(key, spare)
        return result

    @hidden_like(_task_spec)
    async def _call_coroutine(self, run: Run, values: Any) -> Any:
        inner, revealed, mapped = await run(_reveal_all, self.inner, values)
        result = await inner(revealed)
        del inner, revealed  # or they keep memory mapped
        if self.keep is not None:
            await run(self.keep, self.key, result, mapped)
        return result

    def __repr__(self) -> str:
        return repr(self.inner)

    def __sizeof__(self) -> int:
        return int(self.inner.__sizeof__())

    def __reduce__(self) -> tuple[Any, ...]:
        return Boundary, (self.inner,)  # an executor of processes: no event loop there

    def __dask_tokenize__(self) -> Any:
        return "daskref.Boundary", tokenize(self.inner)


def _reveal_all(
    node: GraphNode, values: Any
) -> tuple[GraphNode, dict[Any, Any], list[Mapped]]:
    """Resolve a coroutine task's stored arguments and dependencies before it runs."""
    with noting() as mapped:
        revealed = _revealed(values)
        node = node.load() if isinstance(node, PackedNode) else node
    return node, revealed, mapped


def _revealed(
    values: Any, spares: Spares | None = None, taken: dict[Any, Spare] | None = None
) -> dict[Any, Any]:
    """Resolve a task's dependencies; fill *taken* with those that came from *spares*.

    Raises Reschedule if one was lost with its host: Dask computes that again first.
    """
    try:
        if spares is None or taken is None:
            return {key: reveal(values[key]) for key in values}
        for key in values:
            if is_transparent(values[key]):
                taken[key] = spares.take(key, partial(reveal, values[key]))
        return {k: taken[k].obj if k in taken else values[k] for k in values}
    except ResolveError as exc:
        if is_recomputed(exc):
            raise Reschedule from exc
        raise


def needs_boundary(node: Any, has_dependencies: bool) -> bool:
    """Tell whether a task must run behind a :class:`Boundary`."""
    if isinstance(node, Boundary) or not isinstance(node, GraphNode):
        return False
    return has_dependencies or bool(node.is_coro) or isinstance(node, PackedNode)
