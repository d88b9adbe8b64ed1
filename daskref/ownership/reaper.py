"""A thread that does what finalizers may not."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable

from daskref.background import Background, forget_in_child, is_on_event_loop, make_lock

#: Seconds for which the thread that drops an owner waits for its object to be deleted.
PATIENCE = 1.0


class Reaper:
    """A thread that deletes for finalizers; it runs while there are owners.

    A finalizer may run anywhere, inside a lock of a store for instance: it takes no
    locks and calls no store.

    Parameters
    ----------
    at_exit
        ``() -> None``: called when the process exits.
    in_child
        ``() -> None``: called in a forked child.
    """

    _tasks: deque[tuple[Callable[[], None] | None, threading.Event | None]]
    _owners: int

    def __init__(
        self, at_exit: Callable[[], None], in_child: Callable[[], None]
    ) -> None:
        self._at_exit = at_exit
        self._in_child = in_child
        self._hooked = False
        self._lock = make_lock()
        self._background = Background(self._reap, "daskref-ownership")
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Begin anew in a forked child, which owns nothing."""
        self._tasks = deque()
        self._owners = 0
        self._in_child()

    def begin(self) -> None:
        """Count an owner."""
        with self._lock:
            self._owners += 1
            if not self._hooked:
                self._hooked = True
                atexit.register(self._at_exit)
        self._background.call()

    def end(self) -> None:
        """Count an owner less, once the thread has done the tasks before this."""
        self.put(None)

    def put_and_wait(self, task: Callable[[], None]) -> None:
        """Call a task in the thread; wait a second at most, and on no event loop."""
        done = threading.Event()
        self.put(task, done)
        if not is_on_event_loop():
            done.wait(PATIENCE)

    def put(
        self, task: Callable[[], None] | None, done: threading.Event | None = None
    ) -> None:
        """Call a task in the thread, then set the event. Takes no lock."""
        self._tasks.append((task, done))
        self._background.wake()

    def _reap(self) -> float | None:
        while self._tasks:
            task, done = self._tasks.popleft()
            if task is not None:
                task()
            if done is not None:
                done.set()
            with self._lock:
                self._owners -= task is None
        return float("inf") if self._owners else None
