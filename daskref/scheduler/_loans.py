"""Which borrows are out in Dask's tasks, and what the tasks have made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class Update(NamedTuple):
    """What a task has put in the place of what it borrowed."""

    #: The task that did, as opposed to the key whose end ends the loan.
    task: Any
    #: The place of the object, the object there, its size and how it is deleted.
    object: tuple[Any, ...]
    #: Of a proxy of it, for the owner, pickled.
    factory: bytes


class Loan:
    """One borrow, as long as it is out.

    Attributes
    ----------
    id
        Of the borrow.
    client
        Of the owner.
    update
        The latest one, not yet with the owner.
    """

    update: Update | None
    keys: dict[Any, bool]

    def __init__(self, id: str, client: str) -> None:
        self.id = id
        self.client = client
        self.update = None
        #: key -> whether the graph that the borrow is in has arrived
        self.keys = {}


class Loans:
    """The table of loans.

    A loan is entered before the graph that it belongs to arrives. Until then what
    happens to its keys happens to earlier tasks of the same names.

    Not thread-safe: it belongs to the scheduler's event loop.
    """

    _by_id: dict[str, Loan]
    _by_key: dict[Any, set[Loan]]

    def __init__(self) -> None:
        self._by_id = {}
        self._by_key = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def lend(self, client: str, id: str, keys: Iterable[Any]) -> None:
        """Enter a loan, or further keys of one."""
        loan = self._by_id.setdefault(id, Loan(id, client))
        for key in keys:
            loan.keys[key] = False
            self._by_key.setdefault(key, set()).add(loan)

    def arrived(self, client: str, keys: Iterable[Any]) -> list[Any]:
        """Take note that a graph has arrived; return its keys that have loans."""
        found = []
        for key in keys:
            for loan in self._by_key.get(key, ()):
                if loan.client == client:
                    loan.keys[key] = True
                    found.append(key)
        return found

    def finish(self, key: Any) -> Iterator[Loan]:
        """Take note that a key is done; yield the loans that end with it."""
        for loan in list(self._by_key.get(key, ())):
            if loan.keys[key]:
                yield from self._drop(loan, key)

    def withdraw(self, id: str, keys: Iterable[Any]) -> Iterator[Loan]:
        """Take note that keys will never be done; yield the loan if it ends."""
        for key in keys:
            loan = self._by_id.get(id)
            if loan is not None and key in loan.keys:
                yield from self._drop(loan, key)

    def _drop(self, loan: Loan, key: Any) -> Iterator[Loan]:
        del loan.keys[key]
        loans = self._by_key[key]
        loans.discard(loan)
        if not loans:
            del self._by_key[key]
        if not loan.keys:
            del self._by_id[loan.id]
            yield loan

    def keys_of(self, id: str) -> list[Any]:
        """Return the keys that a loan ends with."""
        loan = self._by_id.get(id)
        return [] if loan is None else list(loan.keys)

    def update(self, id: str, update: Update) -> Update | None:
        """Keep an update; return what is to be deleted: it or the one before."""
        loan = self._by_id.get(id)
        if loan is None:  # the owner has it back
            return update
        before, loan.update = loan.update, update
        return before

    def forget_updates(self, task: Any) -> list[Update]:
        """Give up what an attempt at a task has updated that is made again."""
        found = []
        for loan in self._by_id.values():
            if loan.update is not None and loan.update.task == task:
                found.append(loan.update)
                loan.update = None
        return found

    def remove_client(self, client: str) -> list[Update]:
        """Forget an owner's loans; return the updates that it will not have."""
        found = []
        for loan in [one for one in self._by_id.values() if one.client == client]:
            for key in list(loan.keys):
                for _ in self._drop(loan, key):
                    if loan.update is not None:
                        found.append(loan.update)
        return found

    def clear(self) -> list[Update]:
        """Forget all loans; return the updates that no owner will have."""
        found = [one.update for one in self._by_id.values() if one.update is not None]
        self._by_id.clear()
        self._by_key.clear()
        return found
