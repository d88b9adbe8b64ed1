"""Lifetimes that end at a point in time, with or without their creator."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from daskref.background import Background, make_lock
from daskref.connectors.base import Key
from daskref.exceptions import DaskrefError, LifetimeError
from daskref.lifetimes.base import close_quietly
from daskref.lifetimes.context import ContextLifetime
from daskref.lifetimes.static import register_lifetime_atexit
from daskref.store.store import Store

logger = logging.getLogger(__name__)

#: Seconds: the longest wait, for the clock may be set meanwhile.
_LONGEST = 1e6
#: Seconds or a duration from now, or a point in time.
Expiry = float | timedelta | datetime


def _timestamp(expiry: Expiry, start: float) -> float:
    """Return seconds since the epoch; seconds and durations count from *start*."""
    if isinstance(expiry, datetime):
        return expiry.timestamp()
    if isinstance(expiry, timedelta):
        return start + expiry.total_seconds()
    if isinstance(expiry, int | float) and not isinstance(expiry, bool):
        return start + expiry
    raise TypeError(
        "expiry must be seconds, a timedelta or a datetime, not "
        f"{type(expiry).__name__}"
    )


class LeaseLifetime(ContextLifetime):
    """Delete objects at a point in time, whether or not this process lives to see it.

    Parameters
    ----------
    store
        The store of the objects.
    expiry
        Seconds or a timedelta from now, or a datetime (in local time, if it names no
        zone). In the past: bound objects are deleted at once.
    name
        For messages; unique by default.

    Notes
    -----
    Thread-safe. See :class:`Lifetime` for the methods. Two keep the time:

    - a thread of this process, which does not hold up the exit, deletes at expiry;
    - the store has a lease for each object. If this process is gone, the next sweep of
      the store (the scheduler's reconciliation in the store of a cluster, another lease
      that ends in this store, ``connector.sweep()``) deletes objects whose lease has
      expired.

    Without leases in the connector (``renew`` returns False), only this process
    deletes: at expiry or at its exit, whichever is first. The objects stay if it is
    killed.

    Examples
    --------
    >>> from daskref.connectors import LocalConnector
    >>> with Store("example", LocalConnector()) as store:
    ...     lifetime = LeaseLifetime(store, expiry=60)
    ...     lifetime.add_key(store.put("some text"))
    ...     lifetime.extend(timedelta(hours=1))
    ...     lifetime.active_count(), lifetime.done()
    ...     lifetime.close()
    (1, False)
    """

    _expiry: float
    _background: Background
    #: Closes the lifetime at exit, once an object has no lease; see :mod:`atexit`.
    _at_exit: Callable[[], None] | None

    def __init__(
        self, store: Store, expiry: Expiry, *, name: str | None = None
    ) -> None:
        super().__init__(store, name=name)
        self._expiry = _timestamp(expiry, time.time())
        self._at_exit = None
        # held during renewals, so that the last one writes the latest expiry
        self._renewal = make_lock()
        self._background = Background(self._look, "daskref-lease")
        self._background.call()

    def add_key(self, *keys: Key, store: Store | None = None) -> None:
        """See :meth:`Lifetime.add_key`; writes a lease for each. Blocks."""
        super().add_key(*keys, store=store)
        self._renew(keys)

    def extend(self, expiry: Expiry) -> None:
        """Let the lease end later.

        Parameters
        ----------
        expiry
            Seconds or a timedelta are added to the present expiry. A datetime replaces
            it, earlier or later.

        Raises
        ------
        LifetimeError
            If the lifetime has ended.
        ConnectorError
            If a lease could not be written. The lifetime is extended; extend it by 0
            to write the leases again.
        """
        with self._lock:
            if self._done:
                raise LifetimeError(self.name, "it cannot be extended any more")
            self._expiry = _timestamp(expiry, self._expiry)
            keys = list(self._keys)
        self._background.call()
        self._renew(keys)

    def close(self, *, close_stores: bool = False) -> None:
        """See :meth:`Lifetime.close`. Sweeps other expired objects, too."""
        self._background.stop()
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
        if not self._done:
            try:
                self.store.connector.sweep()
            except DaskrefError:  # deleting its own objects, next, raises
                logger.debug("LIFETIME %s could not sweep", self.name)
        super().close(close_stores=close_stores)

    def _renew(self, keys: Iterable[Key]) -> None:
        with self._renewal:
            for key in keys:
                left = max(0.0, self._expiry - time.time())
                if not self.store.connector.renew(key, left):
                    with self._lock:
                        ours = self._pid == os.getpid() and not self._done
                        if ours and self._at_exit is None:
                            self._at_exit = register_lifetime_atexit(self, False)

    def _look(self) -> float | None:
        """Close the lifetime at its end; return the seconds until then."""
        left = self._expiry - time.time()  # extended meanwhile, or the clock was set
        if left > 0:
            return min(left, _LONGEST)
        close_quietly(self)
        return None
