"""Locks per object without a lock in each object: one thread at a time has the turn.

A lock in each proxy would cost more than all else that making and resolving one takes,
and threads rarely meet. A dictionary has the owners of the turns while there are any,
and only a thread that has to wait makes an event to wait on.
"""

from __future__ import annotations

import threading
from threading import get_ident

from daskref.background import run_in_child

#: Seconds after which a waiting thread looks again, woken or not.
PATIENCE = 1.0

#: Object -> the thread that has the turn.
_owners: dict[int, int] = {}
#: Object -> the event on which other threads wait.
_waiting: dict[int, threading.Event] = {}


@run_in_child
def _forget() -> None:
    """Release all turns in a forked child, which has no other threads."""
    _owners.clear()
    _waiting.clear()


def take_turn(key: int) -> bool:
    """Acquire the turn for an object; return False if this thread has it already.

    *key*: ``id`` of an object that lives until :func:`end_turn`.
    """
    me = get_ident()
    if _owners.get(key) == me:
        return False
    while _owners.setdefault(key, me) != me:
        _wait(key)
    return True


def try_turn(key: int) -> bool:
    """Acquire the turn if no thread has it; return whether."""
    me = get_ident()
    return _owners.get(key) != me and _owners.setdefault(key, me) == me


def end_turn(key: int) -> None:
    """Release this thread's turn and wake the threads that wait."""
    del _owners[key]
    event = _waiting.pop(key, None)
    if event is not None:
        event.set()


def _wait(key: int) -> None:
    # 1. The owner ends its turn. 2. It finds no event. 3. We begin to wait, too late to
    # be woken. So we look for an owner only after our event is there to be seen.
    event = _waiting.setdefault(key, threading.Event())
    if key in _owners:
        # bounded: Ctrl-C may end the owner before it wakes us
        event.wait(PATIENCE)
    else:
        # Other threads may wait on the same event by now: they look again.
        _waiting.pop(key, event).set()
        event.set()
