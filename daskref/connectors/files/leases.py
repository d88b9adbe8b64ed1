"""Leases and orphans of a directory: objects that no process will delete.

A lease is a file beside the object that contains the time at which it ends.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Container, Iterator
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
    """Let the object's lease end in *seconds*; False if there is no such object."""
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
    """Copy an object's lease to directory *new*; the later one counts.

    *delete*: whether to remove the lease from *objects*.
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
    """Return the number and size of the objects; linked objects count once."""
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

    Returns names and sizes of the deleted objects.

    Parameters
    ----------
    known
        Names with an owner.
    gone
        8 digits of a writer -> whether that participant is gone.
    """
    swept = []
    is_gone = cache(gone)
    # Objects with an owner, usually nearly all, are skipped without a system call.
    for name, there in list(_entries(objects, known or ())):
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
    """Delete a file that no process will; return whether it was an object."""
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
    expiry = _expiry(objects, name)
    now = time.time()
    # The time of change is that of publishing, or of the last link.
    row = Row(name, now - there.st_ctime, expiry, name[:8])
    return is_due(row, known, grace, now, is_gone) and objects.evict(name)


def _unlink_dead(path: str) -> None:
    """Delete a file that is locked while its owner is alive."""
    with exclusively(path) as fd:
        if fd is not None:
            unlink(path)


def _expiry(objects: ObjectDirectory, name: str) -> float | None:
    try:
        return float(read_own(objects.at(LEASE + name)))
    except (FileNotFoundError, ValueError):
        return None


def _entries(
    objects: ObjectDirectory, skipped: Container[str] = ()
) -> Iterator[tuple[str, os.stat_result]]:
    try:
        listed = os.listdir(objects.path)
    except FileNotFoundError:
        return
    for name in listed:
        if name in skipped:
            continue
        try:
            yield name, os.lstat(objects.at(name))
        except OSError:
            continue
