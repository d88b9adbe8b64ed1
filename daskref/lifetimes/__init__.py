"""Lifetimes: what deletes the objects of a user's own store, and when.

An object that is bound to a lifetime is deleted when the lifetime ends. All lifetimes
have ProxyStore's protocol, :class:`Lifetime`, and are given to ``put`` and ``proxy`` of
a store, or are told keys and proxies with :meth:`~ContextLifetime.add_key` and
:meth:`~ContextLifetime.add_proxy`.

Read ``base`` first, then the four kinds: ``context``, ``static``, ``lease``, ``task``
(with ``bound``: what a client keeps for the keys of its tasks).

Known limits
------------
Nothing here runs when a process is killed. Leases are kept where the objects are, so
that others delete what has expired, and what is bound to a Dask key has one; objects of
a context or of a process that was killed stay until the store's session ends.
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
