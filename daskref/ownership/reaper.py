"""A thread that does what finalizers may not."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable
from queue import SimpleQueue

from daskref.connectors.forks import forget_in_child

#: Seconds for which the thread that drops an owner waits for its object to be deleted.
PATIENCE = 1.0


class Reaper:
    """A thread that deletes for finalizers; it runs while there are owners.

    A finalizer may run anywhere, inside a lock of a store for instance. It takes no
    locks and calls no store.

    Parameters
    ----------
    at_exit
        ``() -> None``: called when the process exits.
    in_child
        ``() -> None``: called in a forked child.
    """

    _queue: SimpleQueue[tuple[Callable[[], None] | None, threading.Event | None]]
    _thread: threading.Thread | None
    _owners: int

    def __init__(
        self, at_exit: Callable[[], None], in_child: Callable[[], None]
    ) -> None:
        self._at_exit = at_exit
        self._in_child = in_child
        self._hooked = False
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child, which owns nothing."""
        self._queue = SimpleQueue()
        self._lock = threading.Lock()
        self._thread = None
        self._owners = 0
        self._in_child()

    def begin(self) -> None:
        """Take note of an owner."""
        with self._lock:
            self._owners += 1
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="daskref-ownership", daemon=True
                )
                self._thread.start()
            if not self._hooked:
                self._hooked = True
                forget_in_child(self)
                atexit.register(self._at_exit)

    def end(self) -> None:
        """Take note that an owner's object is being deleted."""
        self._queue.put((None, None))

    def put(self, task: Callable[[], None]) -> None:
        """Call something in the thread."""
        self._queue.put((task, None))

    def put_and_wait(self, task: Callable[[], None]) -> None:
        """Call something in the thread; wait for it, but not long, nor on a loop."""
        done = threading.Event()
        self._queue.put((task, done))
        if not _on_event_loop():
            done.wait(PATIENCE)

    def _run(self) -> None:
        while True:
            task, done = self._queue.get()
            if task is not None:
                task()
            if done is not None:
                done.set()
            with self._lock:
                self._owners -= task is None
                if not self._owners and self._queue.empty():
                    self._thread = None
                    return


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
