"""Resolve proxies in the background."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from functools import cache
from typing import Any

from daskref.connectors.forks import forget_in_child
from daskref.proxy import Proxy, extract, is_resolved

logger = logging.getLogger(__name__)

#: Threads that fetch at the same time, at most.
THREADS = 8


class Prefetcher:
    """Fetch the targets of proxies in threads of its own.

    Parameters
    ----------
    limit
        How many threads there may be. They end when nothing is left to fetch, and never
        keep the interpreter from ending.

    Notes
    -----
    A proxy that nobody has any more when its turn comes is not fetched.
    """

    _waiting: deque[weakref.ref[Any]]
    _running: int
    _lock: threading.Lock

    def __init__(self, limit: int = THREADS) -> None:
        self._limit = limit
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Have no threads, in a forked child."""
        self._waiting = deque()
        self._running = 0
        self._lock = threading.Lock()

    def start(self, proxy: Any) -> None:
        """Fetch the target of a proxy soon."""
        with self._lock:
            self._waiting.append(weakref.ref(proxy))
            if self._running >= self._limit:
                return
            self._running += 1
        threading.Thread(target=self._run, name="daskref-prefetch", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                proxy = self._waiting.popleft()()
            if proxy is not None:
                try:
                    extract(proxy)
                except Exception:  # whoever uses it tries again, and has the error
                    logger.debug("Could not resolve a proxy ahead", exc_info=True)
            del proxy


#: ``() -> Prefetcher``: that of this process.
_prefetcher = cache(Prefetcher)


def resolve_async(proxy: Proxy[Any]) -> None:
    """Begin to fetch the target of a proxy, in the background.

    Parameters
    ----------
    proxy
        The proxy; nothing happens if it is resolved already. Its next use waits for
        the fetch that was begun here. If that failed, the use tries again and raises.

    Raises
    ------
    TypeError
        If it is not a proxy.

    Notes
    -----
    Returns at once. At most eight fetches go on at the same time; a proxy that is used
    before its turn is fetched by its user.

    Examples
    --------
    >>> proxy = Proxy(lambda: [1, 2, 3])
    >>> resolve_async(proxy)
    >>> sum(proxy)
    6
    """
    if not is_resolved(proxy):
        _prefetcher().start(proxy)
