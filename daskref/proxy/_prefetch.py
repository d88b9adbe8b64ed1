"""Resolve proxies in the background."""

from __future__ import annotations

import logging
import weakref
from functools import cache
from typing import Any

from daskref.background import Executor
from daskref.proxy.proxy import Proxy, extract, is_resolved

logger = logging.getLogger(__name__)

#: Threads that fetch at the same time, at most.
THREADS = 8


@cache
def _executor() -> Executor:
    return Executor(THREADS, "daskref-prefetch")


def fetch(ref: weakref.ref[Any]) -> None:
    """Resolve a proxy if it is still alive; log an error instead of raising it."""
    proxy = ref()
    if proxy is not None:
        try:
            extract(proxy)
        except Exception:  # its next use tries again, and raises
            logger.debug("Could not resolve a proxy ahead", exc_info=True)


def resolve_async(proxy: Proxy[Any]) -> None:
    """Begin to fetch the target of a proxy, in the background.

    Parameters
    ----------
    proxy
        The proxy; nothing happens if it is resolved already. Its next use waits for
        this fetch. If the fetch failed, the use tries again and raises.

    Raises
    ------
    TypeError
        If it is not a proxy.

    Notes
    -----
    Returns at once. At most eight fetches run at the same time; a thread that uses a
    queued proxy fetches it itself.

    Examples
    --------
    >>> proxy = Proxy(lambda: [1, 2, 3])
    >>> resolve_async(proxy)
    >>> sum(proxy)
    6
    """
    if not is_resolved(proxy):
        _executor().submit(fetch, weakref.ref(proxy))
