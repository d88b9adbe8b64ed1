"""Lifetimes: what deletes the objects of a user's own store, and when.

The end of a lifetime deletes the objects that are bound to it. All lifetimes have
ProxyStore's protocol, :class:`Lifetime`. Pass one to ``put`` and ``proxy`` of a store,
or bind keys and proxies with :meth:`~ContextLifetime.add_key` and
:meth:`~ContextLifetime.add_proxy`.

Read ``base`` first, then the four kinds: ``context``, ``static``, ``lease``, ``task``
(with ``bound``: what a client keeps for the keys of its tasks).

Known limits
------------
Nothing here runs when a process is killed. Stores keep leases beside the objects, so
that other processes delete objects whose lease has expired; objects that are bound to a
Dask key have one. Objects of a context, or of a process that was killed, stay until the
store's session ends.
"""

from __future__ import annotations

from daskref.lifetimes.base import Lifetime
from daskref.lifetimes.context import ContextLifetime
from daskref.lifetimes.lease import LeaseLifetime
from daskref.lifetimes.static import StaticLifetime, register_lifetime_atexit
from daskref.lifetimes.task import TaskLifetime

__all__ = [
    "ContextLifetime",
    "LeaseLifetime",
    "Lifetime",
    "StaticLifetime",
    "TaskLifetime",
    "register_lifetime_atexit",
]
