"""Work beside the program: across forks, and while the interpreter ends.

All threads of daskref start here, so that two rules hold everywhere:

- A forked child has none of its parent's threads, and locks that these held at that
  moment stay held. In the child, locks are free again, and threads start on next use.
- While the interpreter ends, no thread can be started any more, but atexit handlers,
  Dask's own among them, run. Work for a new thread then runs in its caller. No thread
  of daskref keeps the interpreter from ending.

:func:`call_at_end` runs functions after Dask's handlers, and after the child processes.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from multiprocessing.util import Finalize
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_IDLE = 2.0
#: Seconds: the longest wait for a thread that has done its work.
_ENDING = 0.2


class Forgetful(Protocol):
    """An object that holds threads, descriptors, sockets or mappings of the parent."""

    def forget(self) -> None:
        """Give up what is the parent's. Runs in the child, before all else."""


_known: weakref.WeakSet[Forgetful] = weakref.WeakSet()
_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_functions: list[Callable[[], None]] = []
_called_at_end: set[tuple[int, Callable[[], None]]] = set()


def _in_child() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # as Python's own modules do with theirs
    for function in _functions:
        function()
    for each in list(_known):
        each.forget()


os.register_at_fork(after_in_child=_in_child)


def forget_in_child(each: Forgetful) -> None:
    """Call ``each.forget()`` in every child that is forked while *each* lives."""
    _known.add(each)


def run_in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Decorate a function to run in every forked child: for a module's state."""
    _functions.append(function)
    return function


def call_at_end(function: Callable[[], None]) -> None:
    """Call a function at the end of this process, once; it handles its own errors.

    Dask closes clusters and clients in atexit handlers. A handler of ours, registered
    later, would run before them, and so before the worker processes have ended.
    ``multiprocessing`` has a handler from before Dask's: it ends the remaining child
    processes, waits for them, and then calls finalizers of a negative priority. It does
    so at the end of its forked children, too, which call no atexit handlers.
    """
    this = os.getpid(), function
    if this not in _called_at_end:
        _called_at_end.add(this)
        Finalize(None, function, exitpriority=-1000)


def make_lock() -> threading.Lock:
    """Return a lock that is free in a forked child, even if a thread held it."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def make_rlock() -> Any:
    """Return a reentrant lock that is free in a forked child, like a lock."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def is_on_event_loop() -> bool:
    """Tell whether an event loop runs in this thread, which then may not wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def start_thread(target: Callable[[], object], name: str) -> threading.Thread | None:
    """Start a thread; ``None`` while the interpreter ends, which starts none."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


class Background:
    """One thread that works again and again, while there is work.

    *work*: ``() -> seconds`` until its next call, at the latest; ``None`` if there is
    nothing more to do: the thread ends until the next :meth:`start`. It handles its own
    errors.

    Notes
    -----
    Thread-safe. A forked child has no thread until it calls :meth:`start`.
    """

    #: ``None`` while there is none.
    thread: threading.Thread | None
    _calls: SimpleQueue[None]

    def __init__(self, work: Callable[[], float | None], name: str) -> None:
        self._work = work
        self._name = name
        self._lock = make_lock()
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have no thread, in a forked child."""
        self.thread = None
        self._calls = SimpleQueue()

    @property
    def running(self) -> bool:
        """Whether there is a thread."""
        return self.thread is not None

    def start(self, after: float = 0.0) -> bool:
        """Start the thread, if it is not there; False if threads cannot start any more.

        *after*: seconds until the thread works for the first time.
        """
        if self.thread is None:
            with self._lock:
                if self.thread is None:
                    self._start(after)
        return self.thread is not None

    def call(self) -> bool:
        """Let the thread work soon; False if threads cannot start any more."""
        # 1. The thread finds nothing to do. 2. Work arrives, with a call. 3. The thread
        # ends. So it checks for calls, under the lock, before it ends.
        with self._lock:
            if self.thread is None:
                self._start(0.0)
            else:
                self._calls.put(None)
            return self.thread is not None

    def _start(self, after: float) -> None:
        calls = self._calls = SimpleQueue()
        self.thread = start_thread(lambda: self._run(calls, after), self._name)

    def wake(self) -> None:
        """Let the thread work at once. Takes no lock: for finalizers too."""
        self._calls.put(None)

    def _run(self, calls: SimpleQueue[None], seconds: float | None) -> None:
        while True:
            if seconds is None:
                with self._lock:
                    if calls is self._calls and calls.empty():
                        self.thread = None
                        return
                seconds = 0.0
            _wait(calls, seconds)
            if calls is not self._calls:
                return
            seconds = self._work()

    def stop(self, timeout: float = 0.0) -> None:
        """End the thread; wait *timeout* seconds for it. A second call is silent."""
        with self._lock:
            thread, self.thread = self.thread, None
            calls, self._calls = self._calls, SimpleQueue()
            calls.put(None)
        if thread is not None and timeout and thread is not threading.current_thread():
            thread.join(timeout)


def _wait(calls: SimpleQueue[None], seconds: float) -> None:
    """Wait for a call; take all that have come."""
    try:
        calls.get(timeout=None if seconds == float("inf") else seconds)
        while True:
            calls.get_nowait()
    except Empty:
        pass


def _call(future: Future[T], function: Callable[..., T], args: tuple[Any, ...]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = function(*args)
        except BaseException as exc:
            future.set_exception(exc)
        else:
            future.set_result(result)


class Executor:
    """Threads for blocking work: as many as there is work for, up to a limit.

    Unlike the executors of :mod:`concurrent.futures` it works in a forked child, which
    begins without work, and while the interpreter ends. Thread-safe.

    Parameters
    ----------
    threads
        The limit. A thread ends after a time without work.
    idle
        Seconds for which a thread waits for more work.
    """

    _queue: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None]
    #: Number of threads that run now.
    threads: int
    _unfinished: int
    _closed: bool

    def __init__(self, threads: int, name: str, idle: float = _IDLE) -> None:
        self._most = threads
        self._idle = idle
        self._name = name
        self._closed = False
        self._lock = make_lock()
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have no threads and no work, in a forked child."""
        self._queue = SimpleQueue()
        self.threads = self._unfinished = 0

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Call a function in a thread.

        Raises RuntimeError if the executor was closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the executor {self._name!r} was closed")
            self._unfinished += 1
            if self._unfinished > self.threads and self.threads < self._most:
                queue = self._queue
                if start_thread(lambda: self._run(queue), self._name) is not None:
                    self.threads += 1
            if there_are_threads := self.threads > 0:
                self._queue.put((future, function, args))
        if not there_are_threads:
            self._call(future, function, args)
        return future

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function off the event loop. Raises as :meth:`submit` does."""
        return await asyncio.wrap_future(self.submit(function, *args))

    def _run(self, queue: SimpleQueue[Any]) -> None:
        while True:
            try:
                work = queue.get(timeout=self._idle)
            except Empty:
                work = None
            if work is not None:
                self._call(*work)
                del work  # values live no longer for being the last
                continue
            with self._lock:
                if queue.empty() or self._closed:
                    self.threads -= 1
                    return

    def _call(
        self, future: Future[T], function: Callable[..., T], args: tuple[Any, ...]
    ) -> None:
        try:
            _call(future, function, args)
        finally:
            with self._lock:  # a forked child has begun with none unfinished
                self._unfinished = max(0, self._unfinished - 1)

    def close(self, cancel: bool = False) -> None:
        """Accept no more work; a second call is silent.

        *cancel*: whether to cancel work that has not begun. Otherwise it is done.
        """
        with self._lock:
            self._closed = True
            while cancel and not self._queue.empty():
                if (work := self._queue.get_nowait()) is not None:
                    work[0].cancel()
                    self._unfinished -= 1
            for _ in range(self.threads):
                self._queue.put(None)


class Errands:
    """Coroutines that run until they are done or the owner stops them.

    Not thread-safe: it belongs to an event loop. Dask reads the next message of a
    stream when the handler of the last one is done, so long work must not be a handler.
    """

    _tasks: set[asyncio.Task[Any]]
    _stopped: bool

    def __init__(self) -> None:
        self._tasks = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._tasks)

    def run(self, errand: Coroutine[Any, Any, Any]) -> None:
        """Begin an errand, which handles its own errors."""
        if self._stopped:
            errand.close()
            return
        task = asyncio.get_running_loop().create_task(errand)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Cancel what runs and begin nothing more; silent the second time."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()


async def run_apart(function: Callable[..., T], *args: Any) -> T:
    """Call a function off the event loop, in a thread of its own.

    The thread has ended when this returns: code that looks for threads that a client
    has left behind, as Dask's own tests do, finds none. A store that hangs holds up no
    other user of an executor.
    """
    future: Future[T] = Future()
    call = partial(_call, future, function, args)
    thread = start_thread(call, "daskref-apart")
    if thread is None:
        call()
    try:
        return await asyncio.wrap_future(future)
    finally:
        # the thread has set the result: it ends within moments
        if thread is not None and future.done() and not future.cancelled():
            thread.join(_ENDING)
        del future, call  # an error would be in a cycle with this frame
