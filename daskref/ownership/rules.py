"""The rules of owners and borrowers, as errors quote them."""

from __future__ import annotations

from daskref.exceptions import (
    MutableBorrowError,
    OwnershipError,
    ReferenceInvalidError,
    ReferenceNotOwnedError,
)

ONE_OWNER = "a stored object has one owner, which stays in its process"
SHARED_OR_MUTABLE = (
    "there may be any number of shared borrows, or one mutable borrow, and while there "
    "is one the owner does not change the object"
)
VALID = "a borrow never outlives its object, and an owner cannot go while it is lent"
ENDS = "a borrow ends where it is dropped, or when the Dask task that has it ends"
OWNER_LENDS = "only an owner lends"
MUTABLE_CHANGES = (
    "only an owner or a mutable borrow changes the object, in the process of the owner"
)
#: All of them.
RULES = (ONE_OWNER, SHARED_OR_MUTABLE, VALID, ENDS, OWNER_LENDS, MUTABLE_CHANGES)

_ERRORS: dict[str, type[OwnershipError]] = {
    SHARED_OR_MUTABLE: MutableBorrowError,
    VALID: ReferenceInvalidError,
    ENDS: ReferenceInvalidError,
    OWNER_LENDS: ReferenceNotOwnedError,
    MUTABLE_CHANGES: ReferenceNotOwnedError,
}


def violation(proxy: str, reason: str, rule: str) -> OwnershipError:
    """Return the error that quotes a rule; see :class:`OwnershipError`."""
    return _ERRORS.get(rule, OwnershipError)(proxy, reason, rule)
