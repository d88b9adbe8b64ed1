"""The borrows that one client has lent to Dask's tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from daskref.background import make_rlock
from daskref.exceptions import OwnershipError
from daskref.objects.pickling import pickled
from daskref.ownership.borrows import Borrow
from daskref.ownership.factories import BorrowFactory, OwnedFactory, collecting
from daskref.ownership.rules import ENDS, OWNER_LENDS, SHARED_OR_MUTABLE
from daskref.proxy.proxy import get_factory, is_proxy
from daskref.store.factory import StoreFactory


class _Lent:
    """One borrow, and the keys with whose end it comes back."""

    def __init__(self, borrow: Borrow) -> None:
        self.borrow = borrow
        self.keys: set[Any] = set()


class Lending:
    """The borrows that are out in the tasks of one client.

    The scheduler's plugin knows when a task is done, and says so before Dask does. What
    it never comes to know of (a graph that it cannot unpickle) is noticed here.

    Parameters
    ----------
    send
        ``(message) -> None``: to the scheduler, in order with the client's graphs.

    Notes
    -----
    Thread-safe. The lock guards bookkeeping only.
    """

    _by_id: dict[str, _Lent]
    _by_key: dict[Any, set[str]]

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._lock = make_rlock()
        self._by_id = {}
        self._by_key = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def lend(
        self,
        found: Iterable[BorrowFactory],
        graph: Callable[[], Mapping[Any, Any]],
        keys: Iterable[Any],
    ) -> None:
        """Lend the borrows of a graph that is about to be sent.

        Parameters
        ----------
        found
            The borrows that were pickled with the graph.
        graph
            ``() -> graph``, with materialized tasks.
        keys
            What is asked of the graph.

        Raises
        ------
        OwnershipError
            If one of them may not be lent. None is, then.
        """
        borrows = {}
        for factory in found:
            if factory.borrow is None:
                raise OwnershipError(
                    repr(factory), "a task cannot send on what it borrowed", OWNER_LENDS
                )
            borrows[factory.id] = factory.borrow
        needed = _needed_by(graph(), list(keys), borrows)
        sent: list[tuple[str, list[Any]]] = []
        try:
            for id, wanted in needed.items():
                self._lend_one(borrows[id], wanted)
                sent.append((id, wanted))
        except OwnershipError:
            for id, wanted in sent:
                self._forget(id, wanted)
            raise
        self._send({"op": "daskref-lend", "loans": sent})

    def _lend_one(self, borrow: Borrow, keys: list[Any]) -> None:
        with self._lock:
            lent = self._by_id.get(borrow.id)
            borrow.send(again=lent is not None)
            if lent is None:
                lent = self._by_id[borrow.id] = _Lent(borrow)
            lent.keys.update(keys)
            for key in keys:
                self._by_key.setdefault(key, set()).add(borrow.id)

    def withdraw(self, keys: Iterable[Any]) -> None:
        """Take back what was lent to keys that came to nothing."""
        for key in keys:
            for id in list(self._by_key.get(key, ())):
                if self._forget(id, [key]):
                    self._send({"op": "daskref-withdraw", "id": id, "keys": [key]})

    def _forget(self, id: str, keys: Iterable[Any]) -> bool:
        with self._lock:
            lent = self._by_id.get(id)
            if lent is None:
                return False
            for key in keys:
                lent.keys.discard(key)
                self._drop_key(key, id)
            if lent.keys:
                return True
            del self._by_id[id]
        lent.borrow.come_back(None)
        return True

    def come_back(self, id: str, factory: StoreFactory | None) -> None:
        """Take a borrow back, its tasks are done.

        Parameters
        ----------
        id
            Of the borrow; silent if it is not out.
        factory
            Of what they have put in the place of the object, if anything.
        """
        with self._lock:
            lent = self._by_id.pop(id, None)
            if lent is None:
                return
            for key in lent.keys:
                self._drop_key(key, id)
        lent.borrow.come_back(factory)

    def _drop_key(self, key: Any, id: str) -> None:
        ids = self._by_key.get(key)
        if ids is not None:
            ids.discard(id)
            if not ids:
                del self._by_key[key]

    def clear(self) -> None:
        """Take everything back: the tasks are gone, or nobody will tell."""
        for id in list(self._by_id):
            self.come_back(id, None)


def refuse_scattered(data: Any) -> None:
    """Raise an OwnershipError if owners or borrows are to be scattered."""
    if type(data) is dict:
        data = data.values()
    elif type(data) not in (list, tuple, set, frozenset):
        data = [data]
    for value in data:
        factory = get_factory(value) if is_proxy(value) else None
        if isinstance(factory, OwnedFactory):
            factory.__reduce__()
        if isinstance(factory, BorrowFactory):
            raise OwnershipError(
                repr(factory),
                "scattered data have no task whose end gives a borrow back: pass it to "
                "submit, map or compute",
                ENDS,
            )


def _needed_by(
    graph: Mapping[Any, Any], keys: list[Any], borrows: Mapping[str, Borrow]
) -> dict[str, list[Any]]:
    """Return what is asked for and depends on each borrow, by the borrow's id."""
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
