"""Which objects of a session nobody will delete: leases, orphans, and their sizes.

A lease is an object beside the object that says when it ends.
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
    BlobSession,
    timestamp,
)


def renew(blobs: Blobs, session: BlobSession, name: str, seconds: float) -> bool:
    """Let the object's lease end in *seconds*; False if it is not here."""
    lease = session.at(LEASE + name)
    text = timestamp(time.time() + seconds)
    blobs.put(lease, [memoryview(text.encode())])
    if blobs.size(session.at(name)) is not None:
        return True
    blobs.delete([lease])
    return False


def usage(blobs: Blobs, session: BlobSession) -> Usage:
    """Return what the objects take up; copies of one count once."""
    sizes = {
        name.split("-")[2]: nbytes
        for name, nbytes in blobs.sizes(session.directory).items()
        if NAME.fullmatch(name)
    }
    return Usage(len(sizes), sum(sizes.values()))


def sweep(
    blobs: Blobs, session: BlobSession, known: set[str] | None, grace: float
) -> list[tuple[str, int]]:
    """Delete expired leases and orphans; see :meth:`Connector.sweep`.

    Returns
    -------
    list of (name, nbytes)
        What was deleted.
    """
    sizes = blobs.sizes(session.directory)
    names = [name for name in sizes if NAME.fullmatch(name)]
    names = [name for name in names if known is None or name not in known]
    leased = [name for name in names if LEASE + name in sizes]
    found = blobs.get_many(
        [(session.at(LEASE + name), sizes[LEASE + name]) for name in leased]
    )
    expiry = dict(zip(leased, map(_expiry, found), strict=True))
    is_gone = cache(session.gone)
    now = time.time()
    swept = []
    for name in names:
        if name in expiry:
            due = expiry[name] <= now
        else:
            age = now - int(name.split("-")[1], 16)
            due = known is not None and age >= grace and is_gone(name[:8])
        if due:
            swept.append(name)
    # what lies beside objects that are gone
    for before in (LEASE, CLAIM):
        beside = [
            name.removeprefix(before) for name in sizes if name.startswith(before)
        ]
        left = [name for name in beside if name not in sizes and _old(name, grace, now)]
        blobs.delete([session.at(before + name) for name in left])
    for part in filter(PART.match, sizes):
        name = PART.sub("", part)
        if NAME.fullmatch(name) and is_gone(name[:8]):
            blobs.delete([session.at(part)])
    blobs.delete([session.at(n) for name in swept for n in (name, LEASE + name)])
    return [(name, sizes[name]) for name in swept]


def _old(name: str, grace: float, now: float) -> bool:
    return bool(NAME.fullmatch(name)) and now - int(name.split("-")[1], 16) >= grace


def _expiry(found: memoryview | None) -> float:
    try:
        return float(bytes(found or b""))
    except ValueError:
        return float("inf")
