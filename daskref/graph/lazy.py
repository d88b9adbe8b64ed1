"""Arguments that arrive as proxies.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================  =========================================================
name                        what for
==========================  =========================================================
``dask._task_spec``         whose frames tracebacks leave out
``_task_spec.GraphNode``    base of our node, with ``_dependencies``
``_task_spec.parse_input``  futures among the arguments of ``lazy``
==========================  =========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

from dask import _task_spec
from dask._task_spec import GraphNode, parse_input

from daskref.graph.frames import hidden_like
from daskref.proxy.proxy import Proxy

T = TypeVar("T")


class Lazy(GraphNode):
    """What :func:`daskref.lazy` returns: an argument that arrives as a proxy.

    *value*: the argument; the node depends on a future's key.
    """

    __slots__ = ("value",)

    value: Any

    def __init__(self, value: Any) -> None:
        self.key = None  # type: ignore[assignment]
        self.value = value
        is_node = isinstance(value, GraphNode)
        self._dependencies = value.dependencies if is_node else frozenset()

    def copy(self) -> Lazy:
        return Lazy(self.value)

    def substitute(self, subs: Any, key: Any = None) -> GraphNode:
        if isinstance(self.value, GraphNode):
            return Lazy(self.value.substitute(subs))
        return self

    @hidden_like(_task_spec)
    def __call__(self, values: Any = ()) -> Any:
        value = self.value
        if isinstance(value, GraphNode):
            value = value(values)
        return Proxy(Constant(value))

    def __repr__(self) -> str:
        return f"Lazy({type(self.value).__name__})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Lazy, (self.value,)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.tokenize import tokenize

        return ("daskref.Lazy", tokenize(self.value))


def lazy(x: T) -> T:
    """Let an argument arrive as a :class:`~daskref.Proxy`.

    Parameters
    ----------
    x
        An argument of ``submit``, ``map`` or a delayed function: a value of any size,
        or a future.

    Returns
    -------
    object
        To be passed as the argument. For type checkers it is *x*.

    Examples
    --------
    >>> future = client.submit(f, daskref.lazy(frame))  # doctest: +SKIP
    """
    return cast("T", Lazy(parse_input(x)))


@dataclass(frozen=True, eq=False, slots=True)
class Constant:
    """Factory of a proxy whose value is at hand."""

    value: Any

    def __call__(self) -> Any:
        """Return the value."""
        return self.value
