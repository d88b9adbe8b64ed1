"""Ownership of stored objects: an owner, borrows, and the rules between them.

Read ``functions`` first: the functions for users, and the rules; then ``borrows``, the
state in the owner's process, ``factories`` and ``proxies``. ``rules`` has the sentences
that errors quote; ``reaper`` is the thread that deletes objects for finalizers.
"""

from __future__ import annotations

from daskref.ownership.functions import (
    borrow,
    clone,
    drop,
    into_owned,
    mut_borrow,
    update,
)
from daskref.ownership.proxies import OwnedProxy, RefMutProxy, RefProxy
from daskref.ownership.rules import RULES

__all__ = [
    "RULES",
    "OwnedProxy",
    "RefMutProxy",
    "RefProxy",
    "borrow",
    "clone",
    "drop",
    "into_owned",
    "mut_borrow",
    "update",
]
