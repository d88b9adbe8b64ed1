"""Borrows in Dask's tasks: given back when the tasks end, with what they have made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from daskref.scheduler._bindings import Bindings
from daskref.scheduler._holders import Holder
from daskref.scheduler._loans import Loan, Loans, Update

#: Holds what tasks have put in the place of what they borrowed, until the owner does.
UPDATES = Holder("updates", None)


class Lender:
    """Follow the tasks that have borrows, for their owners.

    Parameters
    ----------
    bindings
        What holds the objects that have no owner yet.
    tell
        ``(client, message) -> None``; arrives before what Dask says of the same
        transition.
    find
        ``(key) -> the scheduler's state of the task | None``.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop.
    """

    def __init__(
        self,
        bindings: Bindings,
        tell: Callable[[str, dict[str, Any]], None],
        find: Callable[[Any], Any],
    ) -> None:
        self._find = find
        self._bindings = bindings
        self._tell = tell
        self._loans = Loans()

    def __len__(self) -> int:
        return len(self._loans)

    # What the scheduler does

    def graph_arrived(self, client: str, keys: Iterable[Any]) -> None:
        """Follow the tasks of a graph from here on."""
        for key in self._loans.arrived(client, keys):
            ts = self._find(key)
            if ts is None or ts.state in ("memory", "erred"):  # it was done before
                self._return(self._loans.finish(key))

    def transition(self, key: Any, start: str, finish: str) -> None:
        """Give back what a task has borrowed that is done."""
        if finish in ("memory", "erred", "forgotten"):
            self._return(self._loans.finish(key))
        elif start == "processing":  # another attempt will be made
            self._discard(self._loans.forget_updates(key))

    def restart(self) -> None:
        """Forget everything; the clients know."""
        self._discard(self._loans.clear())

    def remove_client(self, client: str) -> None:
        """Forget the borrows of an owner that is gone."""
        self._discard(self._loans.remove_client(client))

    # What clients and workers say

    def lend(self, client: str, loans: list[tuple[str, list[Any]]]) -> None:
        """Take note of borrows in the graph that comes next, by what they end with."""
        for id, keys in loans:
            self._loans.lend(client, id, keys)

    def withdraw(self, client: str, id: str, keys: list[Any]) -> None:
        """Take note of a borrow whose graph came to nothing."""
        self._return(self._loans.withdraw(id, keys))

    def updated(
        self, worker: str, id: str, task: Any, object: Any, factory: bytes
    ) -> None:
        """Keep what a task has put in the place of what it borrowed.

        Parameters
        ----------
        worker
            Where the task runs.
        id
            Of the borrow.
        task
            ``None`` if the worker does not know.
        object
            As :func:`daskref.store.registry.tell` describes it.
        factory
            Of a proxy of it, for the owner, pickled.
        """
        if task is None:
            keys = self._loans.keys_of(id)
            task = next((key for key in keys if self._runs(worker, key)), None)
        update = Update(task, object, factory)
        self._bindings.hold(UPDATES, [update.object])
        obsolete: Update | None = update
        if self._runs(worker, task):
            obsolete = self._loans.update(id, update)
        # else it is somewhere else by now, or was cancelled
        self._discard([] if obsolete is None else [obsolete])

    def _runs(self, worker: str, task: Any) -> bool:
        ts = self._find(task)
        where = None if ts is None else ts.processing_on
        return where is not None and where.address == worker

    def _discard(self, updates: list[Update]) -> None:
        self._bindings.release(UPDATES, [update.object for update in updates])

    def _return(self, loans: Iterable[Loan]) -> None:
        for loan in loans:
            factory = None
            if loan.update is not None:
                factory = loan.update.factory
                self._bindings.hand_over(UPDATES, loan.update.object, loan.client)
            message = {"op": "daskref-returned", "id": loan.id, "factory": factory}
            self._tell(loan.client, message)
