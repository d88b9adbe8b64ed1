"""Which objects of a store no process will delete: expired leases, and orphans.

One policy for all stores, over a :class:`Row` for each object. Each store collects the
rows and deletes the objects itself. Redis checks leases in its own scripts, in one step
with the deletion; a test compares the scripts with this function.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple


class Row(NamedTuple):
    """What a store knows of one object."""

    name: str
    #: Seconds since the object was published, or got its last link.
    age: float
    #: When its lease ends, in seconds since 1970; ``None`` if it has no lease.
    expiry: float | None
    #: The participant that put the object.
    writer: str


def is_due(
    row: Row,
    known: Container[str] | None,
    grace: float,
    now: float,
    gone: Callable[[str], bool],
) -> bool:
    """Tell whether an object is to be deleted; see :meth:`Connector.sweep`.

    Parameters
    ----------
    known
        Names with an owner, which stay. ``None``: only leases are checked.
    grace
        Seconds for which an object without a lease stays in any case.
    now
        Seconds since 1970.
    gone
        ``(writer) -> bool``: whether that participant is gone. Called last, because it
        may need a system call or a message.
    """
    if known is not None and row.name in known:
        return False
    if row.expiry is not None:
        return row.expiry <= now
    return known is not None and row.age >= grace and gone(row.writer)
