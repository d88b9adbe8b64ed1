"""Borrows that one client has lent to Dask's tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from daskref.client._watches import Watches
from daskref.exceptions import OwnershipError
from daskref.objects.pickling import pickled
from daskref.ownership.borrows import Borrow
from daskref.ownership.factories import BorrowFactory, OwnedFactory, collecting
from daskref.ownership.rules import ENDS, OWNER_LENDS, SHARED_OR_MUTABLE, violation
from daskref.proxy.proxy import get_factory, is_proxy


def lend(
    watches: Watches,
    found: Iterable[BorrowFactory],
    graph: Callable[[], Mapping[Any, Any]],
    keys: Iterable[Any],
) -> list[int]:
    """Lend the borrows of a graph that is about to be sent; return their watches.

    Raises OwnershipError, and lends none, if one of them may not be lent.

    Parameters
    ----------
    watches
        The client's; a borrow comes back when its watch ends.
    found
        The borrows that were pickled with the graph.
    graph
        Returns the user's graph, with materialized tasks.
    keys
        The requested keys of the graph.
    """
    borrows = {}
    for factory in found:
        if factory.borrow is None:
            raise violation(
                repr(factory), "a task cannot send on what it borrowed", OWNER_LENDS
            )
        borrows[factory.id] = factory.borrow
    sent: list[int] = []
    try:
        for id, wanted in _needed_by(graph(), list(keys), borrows).items():
            borrows[id].send()
            ended = partial(_come_back, borrows[id])
            sent.append(watches.add(wanted, "done", ended))
    except OwnershipError:
        watches.withdraw(*sent)
        raise
    return sent


def _come_back(borrow: Borrow, heard: bool) -> None:
    borrow.come_back()


def refuse_scattered(data: Any) -> None:
    """Raise an OwnershipError for owners or borrows that are to be scattered."""
    if type(data) is dict:
        data = data.values()
    elif type(data) not in (list, tuple, set, frozenset):
        data = [data]
    for value in data:
        factory = get_factory(value) if is_proxy(value) else None
        if isinstance(factory, OwnedFactory):
            factory.__reduce__()
        if isinstance(factory, BorrowFactory):
            raise violation(
                repr(factory),
                "scattered data have no task whose end gives a borrow back: pass it to "
                "submit, map or compute",
                ENDS,
            )


def _needed_by(
    graph: Mapping[Any, Any], keys: list[Any], borrows: Mapping[str, Borrow]
) -> dict[str, list[Any]]:
    """Return borrow id -> requested keys that depend on the borrow."""
    direct = {key: _borrows_in(node, borrows) for key, node in graph.items()}
    for id, borrow in borrows.items():
        if borrow.mutable and sum(id in found for found in direct.values()) > 1:
            borrow.ownership.refuse(
                "this mutable borrow is sent to several tasks", SHARED_OR_MUTABLE
            )
    needed: dict[str, list[Any]] = {id: [] for id in borrows}
    for key in keys:
        for id in _reachable(graph, key, direct):
            needed[id].append(key)
    # tasks that nothing asked for depends on are not run, and need nothing
    return {id: wanted for id, wanted in needed.items() if wanted}


def _borrows_in(node: Any, borrows: Mapping[str, Borrow]) -> set[str]:
    with collecting() as found:
        try:
            pickled(node)
        except Exception:  # it was pickled with others, or Dask has its own error
            return set(borrows)
    return {factory.id for factory in found}


def _reachable(
    graph: Mapping[Any, Any], key: Any, direct: Mapping[Any, set[str]]
) -> set[str]:
    needed: set[str] = set()
    seen = {key}
    stack = [key]
    while stack:
        key = stack.pop()
        needed |= direct.get(key, set())
        node = graph.get(key)
        for other in () if node is None else node.dependencies:
            if other not in seen:
                seen.add(other)
                stack.append(other)
    return needed
