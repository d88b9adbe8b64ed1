"""Turns: one thread at a time for an object, without a lock in each object.

A lock per object would cost more than all else that making and resolving a proxy takes,
and hardly any two threads ever meet. So the threads whose turn it is are kept in a
dictionary while it is, and only who has to wait makes something to wait on.
"""

from __future__ import annotations

import threading
from threading import get_ident

from daskref.background import run_in_child

#: Seconds after which those who wait look for themselves.
PATIENCE = 1.0

#: Whose turn it is, for each object of which it is somebody's.
_owners: dict[int, int] = {}
#: What the others wait on.
_waiting: dict[int, threading.Event] = {}


@run_in_child
def _forget() -> None:
    """Let it be nobody's turn, in a forked child: there are no other threads."""
    _owners.clear()
    _waiting.clear()


def take_turn(key: int) -> bool:
    """Wait for this thread's turn; return False if it is that already.

    *key*: ``id`` of an object that lives until :func:`end_turn`.
    """
    me = get_ident()
    if _owners.get(key) == me:
        return False
    while _owners.setdefault(key, me) != me:
        _wait(key)
    return True


def try_turn(key: int) -> bool:
    """Take the turn if it is nobody's; tell whether."""
    me = get_ident()
    return _owners.get(key) != me and _owners.setdefault(key, me) == me


def end_turn(key: int) -> None:
    """End this thread's turn and wake who waits for it."""
    del _owners[key]
    event = _waiting.pop(key, None)
    if event is not None:
        event.set()


def _wait(key: int) -> None:
    # 1. The owner ends its turn. 2. It finds nobody waiting. 3. We come to wait: too
    # late for being woken. So we look for an owner only after it can see us.
    event = _waiting.setdefault(key, threading.Event())
    if key in _owners:
        # at the latest then look again: Ctrl-C may have come before our being woken
        event.wait(PATIENCE)
    else:
        # Others may have come to wait on the same event meanwhile: they look again.
        _waiting.pop(key, event).set()
        event.set()
