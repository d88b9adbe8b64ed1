"""Leases, orphans and sizes of a session's objects.

A lease is an object beside the object that contains the time at which it ends.
"""

from __future__ import annotations

import time
from functools import cache

from daskref.connectors.base import Usage
from daskref.connectors.fsspec._blobs import PART, Blobs
from daskref.connectors.fsspec._session import (
    CLAIM,
    LEASE,
    NAME,
    ObjectStoreSession,
    timestamp,
)
from daskref.connectors.sweeping import Row, is_due


def renew(blobs: Blobs, session: ObjectStoreSession, name: str, seconds: float) -> bool:
    """Let the object's lease end in *seconds*; False if there is no such object."""
    lease = session.at(LEASE + name)
    text = timestamp(time.time() + seconds)
    blobs.put(lease, [memoryview(text.encode())])
    if blobs.size(session.at(name)) is not None:
        return True
    blobs.delete([lease])
    return False


def usage(blobs: Blobs, session: ObjectStoreSession) -> Usage:
    """Return the number and size of the objects; copies of one object count once."""
    sizes = {
        name.split("-")[2]: nbytes
        for name, nbytes in blobs.sizes(session.directory).items()
        if NAME.fullmatch(name)
    }
    return Usage(len(sizes), sum(sizes.values()))


def sweep(
    blobs: Blobs, session: ObjectStoreSession, known: set[str] | None, grace: float
) -> list[tuple[str, int]]:
    """Delete expired leases and orphans; see :meth:`Connector.sweep`.

    Returns names and sizes of the deleted objects.
    """
    sizes = blobs.sizes(session.directory)
    names = [name for name in sizes if NAME.fullmatch(name)]
    leased = [name for name in names if LEASE + name in sizes]
    leased = [name for name in leased if known is None or name not in known]
    found = blobs.get_many(
        [(session.at(LEASE + name), sizes[LEASE + name]) for name in leased]
    )
    expiry = dict(zip(leased, map(_expiry, found), strict=True))
    is_gone = cache(session.gone)
    now = time.time()
    rows = [Row(name, _age(name, now), expiry.get(name), name[:8]) for name in names]
    swept = [row.name for row in rows if is_due(row, known, grace, now, is_gone)]
    # what lies beside objects that are gone
    for before in (LEASE, CLAIM):
        beside = [
            name.removeprefix(before) for name in sizes if name.startswith(before)
        ]
        left = [
            name
            for name in beside
            if name not in sizes and NAME.fullmatch(name) and _age(name, now) >= grace
        ]
        blobs.delete([session.at(before + name) for name in left])
    for part in filter(PART.match, sizes):
        name = PART.sub("", part)
        if NAME.fullmatch(name) and is_gone(name[:8]):
            blobs.delete([session.at(part)])
    blobs.delete([session.at(n) for name in swept for n in (name, LEASE + name)])
    return [(name, sizes[name]) for name in swept]


def _age(name: str, now: float) -> float:
    return now - int(name.split("-")[1], 16)


def _expiry(found: memoryview | None) -> float:
    try:
        return float(bytes(found or b""))
    except ValueError:
        return float("inf")
