"""The factories of owners and borrows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from daskref.objects.reference import Metadata, Reference
from daskref.ownership.rules import ONE_OWNER
from daskref.store.factory import StoreFactory

if TYPE_CHECKING:
    from daskref.ownership.borrows import Borrow, Ownership


class OwnedFactory:
    """The factory of an owner."""

    __slots__ = ("ownership",)

    def __init__(self, ownership: Ownership) -> None:
        self.ownership = ownership

    @property
    def metadata(self) -> Metadata | None:
        """Metadata of the object, unless it was dropped."""
        ownership = self.ownership
        return None if ownership.ended else ownership.factory.metadata

    @property
    def reference(self) -> Reference:
        """Reference to the present object."""
        return self.ownership.readable().reference

    def __call__(self) -> Any:
        """Return a new private object."""
        return self.ownership.readable()()

    def __repr__(self) -> str:
        return repr(self.ownership)

    def __dask_tokenize__(self) -> Any:
        # not a borrow's token: Dask must not take the result of a borrower's task
        return "daskref.OwnedProxy", id(self.ownership)

    def __reduce__(self) -> NoReturn:
        self.ownership.refuse(
            "an owner cannot be sent or pickled: send borrow(owner) or "
            "mut_borrow(owner)",
            ONE_OWNER,
        )


class BorrowFactory:
    """The factory of a borrow.

    Parameters
    ----------
    factory
        Of the generation that was borrowed.
    mutable
        Whether the borrow may change the object.
    borrow
        ``None`` outside of the owner's process.
    """

    __slots__ = ("borrow", "factory", "id", "mutable")

    #: Whether this process has ever made one: else no pickle contains any.
    known: ClassVar[bool] = False

    def __init__(
        self,
        factory: StoreFactory,
        id: str,
        mutable: bool,
        borrow: Borrow | None = None,
    ) -> None:
        self.factory = factory
        self.id = id
        self.mutable = mutable
        self.borrow = borrow
        BorrowFactory.known = True

    @property
    def metadata(self) -> Metadata | None:
        """Metadata of the object."""
        return self.factory.metadata

    @property
    def reference(self) -> Reference:
        """Reference to the object as it was borrowed."""
        return self.factory.reference

    def __call__(self) -> Any:
        """Return a new private object."""
        if self.borrow is not None:
            self.borrow.check()
        return self.factory()

    def __repr__(self) -> str:
        name = "RefMutProxy" if self.mutable else "RefProxy"
        return f"<{name} of {self.factory.reference!r}>"

    def __dask_tokenize__(self) -> Any:
        if self.mutable:  # its task runs, even if another one borrowed the same
            return "daskref.mut_borrow", self.id
        return self.factory.__dask_tokenize__()

    def __reduce__(self) -> tuple[Any, ...]:
        if (found := getattr(_collector, "found", None)) is not None:
            found.append(self)
        return BorrowFactory, (self.factory, self.id, self.mutable)


_collector = threading.local()


@contextmanager
def collecting() -> Iterator[list[BorrowFactory]]:
    """Collect the borrows that this thread pickles inside the block."""
    outer = getattr(_collector, "found", None)
    found: list[BorrowFactory] = []
    _collector.found = found
    try:
        yield found
    finally:
        _collector.found = outer
