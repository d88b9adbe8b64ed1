"""Tell objects that they are in a forked child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgetful(Protocol):
    """What holds locks, descriptors or mappings that are the parent's."""

    def forget(self) -> None:
        """Give up what is the parent's. Runs in the child, before anything else."""


_known: weakref.WeakSet[Forgetful] = weakref.WeakSet()
_hooked = False


def _in_child() -> None:
    for each in list(_known):
        each.forget()


def forget_in_child(each: Forgetful) -> None:
    """Call ``each.forget()`` in every child that is forked while it lives."""
    global _hooked
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_in_child)
    _known.add(each)
