"""Which objects of a directory nobody will delete: leases, orphans, and what they use.

A lease is a file beside the object that says when it ends.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import cache

from daskref.connectors.base import Usage
from daskref.connectors.files.directory import ObjectDirectory
from daskref.connectors.files.folders import read_own
from daskref.connectors.files.locks import exclusively, write_whole
from daskref.connectors.files.names import ARRIVAL, ARRIVING, LEASE, NAME, PART, PUSHED
from daskref.connectors.files.recycling import unlink
from daskref.connectors.sweeping import Row, is_due

logger = logging.getLogger(__name__)


def renew(objects: ObjectDirectory, name: str, seconds: float) -> bool:
    """Let the object's lease end in *seconds*; False if it is not here."""
    if not objects.exists(name):
        return False
    lease = objects.at(LEASE + name)
    write_whole(lease, repr(time.time() + seconds).encode())
    if objects.exists(name):
        return True
    unlink(lease)
    return False


def hand_over(
    objects: ObjectDirectory, new: ObjectDirectory, name: str, delete: bool = False
) -> None:
    """Let an object have its lease in another directory, too; the later one counts.

    Parameters
    ----------
    objects, new
        Where it was, and where it is.
    delete
        Whether the lease goes where it was.
    """
    expiry = _expiry(objects, name)
    if expiry is None:
        return
    if expiry > (_expiry(new, name) or 0.0):
        write_whole(new.at(LEASE + name), repr(expiry).encode())
    if delete:
        unlink(objects.at(LEASE + name))


def names(objects: ObjectDirectory) -> list[str]:
    """Return the names of all objects."""
    return [name for name, _ in _entries(objects) if NAME.fullmatch(name)]


def usage(objects: ObjectDirectory) -> Usage:
    """Return what the objects take up; links are counted once."""
    sizes = {
        there.st_ino: there.st_size
        for name, there in _entries(objects)
        if NAME.fullmatch(name)
    }
    return Usage(len(sizes), sum(sizes.values()))


def sweep(
    objects: ObjectDirectory,
    known: set[str] | None,
    grace: float,
    gone: Callable[[str], bool],
) -> list[tuple[str, int]]:
    """Delete expired leases and orphans; see :meth:`Connector.sweep`.

    Returns what was deleted.

    Parameters
    ----------
    known
        Names with an owner: they stay.
    gone
        8 digits of a writer -> whether it is gone.
    """
    swept = []
    is_gone = cache(gone)
    for name, there in list(_entries(objects)):
        try:
            if _sweep(objects, name, there, known, grace, is_gone):
                swept.append((name, there.st_size))
        except OSError as exc:  # the others are looked at all the same
            logger.warning("%s cannot be swept: %s", objects.at(name), exc.strerror)
    return swept


def _sweep(
    objects: ObjectDirectory,
    name: str,
    there: os.stat_result,
    known: set[str] | None,
    grace: float,
    is_gone: Callable[[str], bool],
) -> bool:
    """Delete one file if nobody will; whether it was an object."""
    if name.startswith(PART) and NAME.fullmatch(part := name.removeprefix(PART)):
        if is_gone(part[:8]):
            unlink(objects.at(name))
    elif name.startswith(ARRIVAL) and NAME.fullmatch(name.removeprefix(ARRIVAL)):
        _unlink_dead(objects.at(name))
    elif name.startswith((ARRIVING, PUSHED)) and objects.pool is not None:
        # Its writer locks it as soon as it has made it.
        if time.time() - there.st_mtime > grace:
            _unlink_dead(objects.at(name))
    elif name.startswith("p-") and len(name) == 10:
        if is_gone(name.removeprefix("p-")):
            unlink(objects.at(name))
    elif (
        name.startswith(LEASE)
        and NAME.fullmatch(of := name.removeprefix(LEASE))
        and not objects.exists(of)
    ):
        unlink(objects.at(name))
    if not NAME.fullmatch(name):
        return False
    owned = known is not None and name in known
    expiry = None if owned else _expiry(objects, name)  # not read in vain
    now = time.time()
    # The time of change is that of publishing, or of the last link.
    row = Row(name, now - there.st_ctime, expiry, name[:8])
    return is_due(row, known, grace, now, is_gone) and objects.evict(name)


def _unlink_dead(path: str) -> None:
    """Delete a file whose lock its owner holds as long as it lives."""
    with exclusively(path) as fd:
        if fd is not None:
            unlink(path)


def _expiry(objects: ObjectDirectory, name: str) -> float | None:
    try:
        return float(read_own(objects.at(LEASE + name)))
    except (FileNotFoundError, ValueError):
        return None


def _entries(objects: ObjectDirectory) -> Iterator[tuple[str, os.stat_result]]:
    try:
        listed = os.listdir(objects.path)
    except FileNotFoundError:
        return
    for name in listed:
        try:
            yield name, os.lstat(objects.at(name))
        except OSError:
            continue
