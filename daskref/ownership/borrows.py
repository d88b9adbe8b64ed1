"""The owner of a stored object, its borrows, and where the borrows are.

The state behind the proxies of :mod:`daskref.ownership`: one :class:`Ownership` per
owned object, one :class:`Borrow` per borrow, both in the owner's process. Another
process gets a factory with the borrow's id and the object, nothing more.

A stored object does not change. An update puts a new one, the next *generation*, and
the ownership points at that. A borrower of the generation before may read it until the
borrow ends; since updates exclude other borrows, only the borrower that made the update
can have one.
"""

from __future__ import annotations

import logging
import os
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from daskref.background import make_rlock
from daskref.exceptions import DaskrefError
from daskref.objects.reference import Reference
from daskref.ownership.reaper import Reaper
from daskref.ownership.rules import (
    ENDS,
    ONE_OWNER,
    SHARED_OR_MUTABLE,
    VALID,
    violation,
)
from daskref.proxy.proxy import extract, is_resolved
from daskref.proxy.states import forget
from daskref.store.factory import StoreFactory, factory_of
from daskref.store.registry import evict_from

logger = logging.getLogger(__name__)


class Ownership:
    """One owned object, and the borrows of it.

    Raises OwnershipError if the object has an owner in this process.

    Notes
    -----
    Thread-safe. The lock guards bookkeeping only. Finalizers, which may run anywhere,
    take no lock: they append to ``dead``, which every check reads first.
    """

    factory: StoreFactory
    ended: bool
    owner_gone: bool
    shared: set[Borrow]
    mutable: Borrow | None

    def __init__(self, factory: StoreFactory) -> None:
        self.factory = factory_of(factory.reference, factory)
        self.ended = False
        self.owner_gone = False
        self.shared = set()
        self.mutable = None
        self.dead: deque[Borrow] = deque()
        self.lock = make_rlock()
        self._owner: Callable[[], Any] = _nobody
        self._pid = os.getpid()
        if owned.setdefault(factory.reference, self) is not self:
            raise violation(
                repr(factory.reference), "it has an owner already", ONE_OWNER
            )
        reaper.begin()

    def __repr__(self) -> str:
        return f"<OwnedProxy of {self.factory.reference!r}>"

    def belongs_to(self, owner: Any) -> None:
        """Set the owner: the death of this proxy ends the ownership."""
        self._owner = weakref.ref(owner)
        weakref.finalize(owner, self._owner_died).atexit = False

    def refuse(self, reason: str, rule: str) -> NoReturn:
        """Raise the error that quotes a rule."""
        raise violation(repr(self), reason, rule)

    # Borrowing

    def borrow(self, mutable: bool) -> Borrow:
        """Add a borrow; raise OwnershipError if a rule forbids it."""
        with self.lock:
            self._check_here()
            if self.mutable is not None:
                self.refuse(
                    "it is mutably borrowed: drop that borrow, or wait for the task "
                    "that has it",
                    SHARED_OR_MUTABLE,
                )
            if mutable and self.shared:
                self.refuse(
                    f"it is borrowed {len(self.shared)} times: drop those borrows, or "
                    "wait for the tasks that have them",
                    SHARED_OR_MUTABLE,
                )
            borrow = Borrow(self, mutable)
            if mutable:
                self.mutable = borrow
            else:
                self.shared.add(borrow)
            return borrow

    def give_back(self, borrow: Borrow) -> None:
        """End a borrow; silent if it has ended."""
        with self.lock:
            borrow.ended = True
            self.shared.discard(borrow)
            if self.mutable is borrow:
                self.mutable = None
        if self.owner_gone:
            reaper.put(self.settle)

    def readable(self) -> StoreFactory:
        """Return the factory that the owner resolves with."""
        with self.lock:
            self._check_here()
            return self.factory

    def check_unborrowed(self, what: str, rule: str) -> None:
        """Raise OwnershipError if the object is borrowed."""
        with self.lock:
            self._check_here()
            if count := len(self.shared) + (self.mutable is not None):
                self.refuse(f"it is borrowed {count} times and cannot be {what}", rule)

    def _check_here(self) -> None:
        self._bury()
        if self.ended:
            self.refuse("it was dropped", VALID)
        if self._pid != os.getpid():
            self.refuse("it belongs to the parent process", ONE_OWNER)

    def _bury(self) -> None:
        while self.dead:
            borrow = self.dead.popleft()
            if not borrow.out:
                self.shared.discard(borrow)
                if self.mutable is borrow:
                    self.mutable = None

    # Generations

    def replace(self, factory: StoreFactory) -> None:
        """Point at a new generation; a thread deletes the one before."""
        with self.lock:
            before = self.factory.reference
            self.factory = factory
            owned.pop(before, None)
            owned[factory.reference] = self
        reaper.put(lambda: _evict(before))

    def renew_owner(self, seen: object = None) -> None:
        """Let the owner's proxy resolve anew, unless its target is *seen*."""
        owner = self._owner()
        if owner is None:
            return
        if seen is None or not is_resolved(owner) or extract(owner) is not seen:
            forget(owner)

    # The end

    def drop(self) -> None:
        """Delete the object now. Blocks. A second call is silent.

        Raises OwnershipError if the object is borrowed; ConnectorError if it could not
        be deleted: it has no owner any more.
        """
        with self.lock:
            if self.ended:
                return
            self.check_unborrowed("dropped", VALID)
            self._end()
        reference = self.factory.reference
        evict_from(reference.store, reference.key)
        self.renew_owner()

    def settle(self) -> None:
        """Delete the object if owner and borrows are gone. Blocks."""
        with self.lock:
            self._bury()
            if self.ended or not self.owner_gone:
                return
            if self.shared or self.mutable is not None:
                return
            self._end()
        _evict(self.factory.reference)

    def end_at_exit(self) -> None:
        """Delete the object, borrowed or not: its owner's process ends."""
        with self.lock:
            if self.ended or self._pid != os.getpid():
                return
            self._end()
        _evict(self.factory.reference)

    def _end(self) -> None:
        self.ended = True
        owned.pop(self.factory.reference, None)
        reaper.end()

    def _owner_died(self) -> None:
        if self.ended or self._pid != os.getpid():
            return
        self.owner_gone = True
        reaper.put_and_wait(self.settle)


@dataclass(eq=False, repr=False)
class Borrow:
    """One borrow, in the process of the owner."""

    ownership: Ownership
    mutable: bool
    #: Number of graphs that have it, whose tasks have not ended.
    out: int = 0
    #: Whether it was given back.
    ended: bool = False

    def __post_init__(self) -> None:
        self.id = uuid.uuid4().hex
        self._proxy: Callable[[], Any] = _nobody

    def belongs_to(self, proxy: Any) -> None:
        """Set the proxy: its death gives the borrow back, unless a graph has it."""
        self._proxy = weakref.ref(proxy)
        weakref.finalize(proxy, self._proxy_died).atexit = False

    def check(self) -> None:
        """Raise OwnershipError if the borrow was given back, or a task has it."""
        if self.ended:
            self.ownership.refuse(
                "this borrow was given back: borrow from the owner again", ENDS
            )
        if self.out:
            self.ownership.refuse(
                "this borrow was sent to a Dask task: borrow from the owner again", ENDS
            )

    def send(self) -> None:
        """Let a Dask task have the borrow."""
        ownership = self.ownership
        with ownership.lock:
            if self.ended:
                self.check()
            if self.mutable and self.out:
                ownership.refuse(
                    "this mutable borrow is in a Dask task already", SHARED_OR_MUTABLE
                )
            self.out += 1
        if (proxy := self._proxy()) is not None:
            forget(proxy)

    def come_back(self) -> None:
        """Take the borrow back from the tasks of a graph."""
        ownership = self.ownership
        with ownership.lock:
            self.out -= 1
            ended = not self.out
        if ended:
            ownership.give_back(self)

    def _proxy_died(self) -> None:
        ownership = self.ownership
        ownership.dead.append(self)
        if ownership.owner_gone:
            reaper.put(ownership.settle)


def _nobody() -> None:
    return None


def _evict(reference: Reference) -> None:
    """Delete an object without an owner; log errors, which have no caller to go to."""
    try:
        evict_from(reference.store, reference.key)
    except DaskrefError as exc:
        # most often because closing the store has deleted the object before
        logger.debug("%r, which had an owner, was not deleted: %s", reference, exc)
    except Exception:
        logger.warning(
            "%r, which had an owner, was not deleted", reference, exc_info=True
        )


def _end_all() -> None:
    for ownership in list(owned.values()):
        ownership.end_at_exit()


#: The ownerships of this process, by the object that each owns now.
owned: dict[Reference, Ownership] = {}
reaper = Reaper(at_exit=_end_all, in_child=owned.clear)
