"""Leases of stored objects that no Dask key holds.

A process renews the lease of such an object in a thread, as long as a proxy of it
lives. A sweep deletes objects whose lease has expired.
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, field
from typing import Any

from daskref.background import Background, make_lock, run_in_child
from daskref.config import Settings
from daskref.objects.reference import Reference
from daskref.store.registry import get_or_create_store

logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class LeaseKeeper:
    """Renew the leases of living proxies, three times per lease.

    The thread starts with the first proxy and ends with the last one.
    """

    #: Length of a lease.
    _seconds: float
    _kept: dict[int, tuple[weakref.ref[Any], Reference]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._background = Background(self._keep, "daskref-leases")

    def add(self, proxy: Any, reference: Reference) -> None:
        """Renew the lease of an object until the proxy is garbage-collected."""
        number, kept = id(proxy), self._kept
        ref = weakref.ref(proxy, lambda _: kept.pop(number, None))
        kept[number] = (ref, reference)
        self._background.call()

    def renew(self) -> None:
        """Renew all leases. Blocks."""
        for _, reference in list(self._kept.values()):
            try:
                store = get_or_create_store(reference.store)
                store.connector.renew(reference.key, self._seconds)
            except Exception:
                logger.debug("Could not renew %r", reference, exc_info=True)

    def _keep(self) -> float | None:
        self.renew()
        return self._seconds / 3 if self._kept else None


_keeper: LeaseKeeper | None = None
_keeper_lock = make_lock()


@run_in_child
def _forget() -> None:
    global _keeper
    _keeper = None


def keep_alive(proxy: Any, reference: Reference) -> None:
    """Renew the lease of a reference's object while a proxy lives, in a thread."""
    global _keeper
    with _keeper_lock:
        if _keeper is None:
            _keeper = LeaseKeeper(Settings.read().lease)
        _keeper.add(proxy, reference)
