"""Leases: what keeps objects that no Dask key keeps.

A process that holds a proxy of such an object renews its lease, in a thread, for as
long as the proxy lives. Whoever sweeps deletes what was not renewed.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

from daskref.config import Settings
from daskref.reference import Reference
from daskref.stores import get_or_create_store

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """Renew the leases of living proxies, three times per lease.

    Parameters
    ----------
    seconds
        Length of a lease.

    Notes
    -----
    The thread starts with the first proxy and ends with the last one.
    """

    _kept: dict[int, tuple[weakref.ref[Any], Reference]]
    _thread: threading.Thread | None

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept = {}
        self._lock = threading.Lock()
        self._thread = None
        self._wake = threading.Event()

    def add(self, proxy: Any, reference: Reference) -> None:
        """Keep a reference's object for as long as the proxy lives."""
        number, kept = id(proxy), self._kept
        ref = weakref.ref(proxy, lambda _: kept.pop(number, None))
        with self._lock:
            kept[number] = (ref, reference)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="daskref-leases", daemon=True
                )
                self._thread.start()

    def renew(self) -> None:
        """Renew all leases now. Blocks."""
        for _, reference in list(self._kept.values()):
            try:
                store = get_or_create_store(reference.store)
                store.connector.renew(reference.key, self._seconds)
            except Exception:
                logger.debug("Could not renew %r", reference, exc_info=True)

    def _run(self) -> None:
        while True:
            self.renew()
            self._wake.wait(self._seconds / 3)
            with self._lock:
                if not self._kept:
                    self._thread = None
                    return


_keeper: LeaseKeeper | None = None
_keeper_lock = threading.Lock()


def keep_alive(proxy: Any, reference: Reference) -> None:
    """Renew the lease of a reference's object for as long as a proxy lives.

    Does no I/O itself; a thread does.
    """
    global _keeper
    with _keeper_lock:
        if _keeper is None:
            _keeper = LeaseKeeper(Settings.read().lease)
        _keeper.add(proxy, reference)
