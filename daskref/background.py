"""What runs beside the program: over forks, and while the interpreter ends.

All that daskref runs in threads is started here, so that two rules hold everywhere:

- A forked child has none of its parent's threads, and whatever they held at that moment
  stays held. There, locks are free again, and threads start on their next use.
- While the interpreter ends, no thread can be started any more; atexit handlers, Dask's
  own among them, run all the same. What would run in a new thread runs in its caller
  then. No thread of ours keeps the interpreter from ending.

What must come after Dask's handlers, and after the child processes, is called by
:func:`call_at_end`.
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
    """What holds threads, descriptors, sockets or mappings that are the parent's."""

    def forget(self) -> None:
        """Give up what is the parent's. Runs in the child, before anything else."""


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
    """Call ``each.forget()`` in every child that is forked while it lives."""
    _known.add(each)


def run_in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Call a function in every forked child: for a module's state. A decorator."""
    _functions.append(function)
    return function


def call_at_end(function: Callable[[], None]) -> None:
    """Call a function at the end of this process, once.

    Dask closes clusters and clients in atexit handlers. A handler of ours would be
    called before them, since it would be registered later, and so before the worker
    processes have ended. ``multiprocessing`` has a handler from before Dask's: it ends
    the child processes that are left, waits for them, and then calls finalizers of a
    negative priority. It does so at the end of its forked children, too, where no
    atexit handler is called.

    Parameters
    ----------
    function
        It sees to its own errors.
    """
    this = os.getpid(), function
    if this not in _called_at_end:
        _called_at_end.add(this)
        Finalize(None, function, exitpriority=-1000)


def make_lock() -> threading.Lock:
    """Return a lock that is free in a forked child, whoever held it."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def make_rlock() -> Any:
    """Return a reentrant lock that is free in a forked child, whoever held it."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def is_on_event_loop() -> bool:
    """Tell whether an event loop runs in this thread, which may not wait then."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def start_thread(target: Callable[[], object], name: str) -> threading.Thread | None:
    """Start a thread; ``None`` while the interpreter ends, when there are no more."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


class Background:
    """One thread that does something again and again, while there is anything to do.

    *work*: ``() -> seconds`` until it is called again, at the latest; ``None`` if there
    is nothing more to do: the thread ends until the next :meth:`start`. It sees to its
    own errors.

    Notes
    -----
    Thread-safe. In a forked child there is no thread until :meth:`start` is called.
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
        """Have a thread; False if there can be none any more.

        *after*: seconds until the thread works for the first time.
        """
        if self.thread is None:
            with self._lock:
                if self.thread is None:
                    self._start(after)
        return self.thread is not None

    def call(self) -> bool:
        """Have the work done soon, in a thread; False if there can be none any more."""
        # 1. The thread finds nothing to do. 2. There is something, and it is called.
        # 3. It ends. So it looks whether it was called, under the lock.
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
        """Let the thread work at once. For finalizers too: takes no lock."""
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
        """End the thread; wait for it for so many seconds. A second call is silent."""
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
    """Threads for what blocks: as many as there is work for, up to a limit.

    Parameters
    ----------
    threads
        How many there may be. They end when there was nothing to do for a while.
    idle
        Seconds for which a thread waits for more work.

    Notes
    -----
    Thread-safe. Unlike those of :mod:`concurrent.futures` it works in a forked child,
    where it has nothing to do yet, and while the interpreter ends.
    """

    _queue: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None]
    _threads: int
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
        """Have no threads and nothing to do, in a forked child."""
        self._queue = SimpleQueue()
        self._threads = self._unfinished = 0

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Call a function in a thread.

        Raises RuntimeError if the executor was closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the executor {self._name!r} was closed")
            self._unfinished += 1
            if self._unfinished > self._threads and self._threads < self._most:
                queue = self._queue
                if start_thread(lambda: self._run(queue), self._name) is not None:
                    self._threads += 1
            if there_are_threads := self._threads > 0:
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
                    self._threads -= 1
                    return

    def _call(
        self, future: Future[T], function: Callable[..., T], args: tuple[Any, ...]
    ) -> None:
        try:
            _call(future, function, args)
        finally:
            with self._lock:  # in a forked child it was none of this executor's
                self._unfinished = max(0, self._unfinished - 1)

    def close(self, cancel: bool = False) -> None:
        """Take nothing more; a second call is silent.

        *cancel*: whether what has not begun is cancelled. Otherwise it is done.
        """
        with self._lock:
            self._closed = True
            while cancel and not self._queue.empty():
                if (work := self._queue.get_nowait()) is not None:
                    work[0].cancel()
                    self._unfinished -= 1
            for _ in range(self._threads):
                self._queue.put(None)


class Errands:
    """Coroutines that run until they are done, or nobody wants them any more.

    Notes
    -----
    Not thread-safe: it belongs to an event loop. Dask reads no further message of a
    stream before the handler of this one is done, so what takes long must not be one.
    """

    _tasks: set[asyncio.Task[Any]]
    _stopped: bool

    def __init__(self) -> None:
        self._tasks = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._tasks)

    def run(self, errand: Coroutine[Any, Any, Any]) -> None:
        """Begin an errand; it sees to its own errors."""
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
    """Call a function off the event loop that belongs to no session's executor.

    It has a thread of its own, which has ended when this returns: whoever looks for
    threads that a client has left behind, as Dask's own tests do, finds none. And a
    store that hangs holds up nobody else.
    """
    future: Future[T] = Future()
    call = partial(_call, future, function, args)
    thread = start_thread(call, "daskref-apart")
    if thread is None:
        call()
    try:
        return await asyncio.wrap_future(future)
    finally:
        # it has set the result, so that only its last steps are to come
        if thread is not None and future.done() and not future.cancelled():
            thread.join(_ENDING)
        del future, call  # an error would be in a cycle with this frame
