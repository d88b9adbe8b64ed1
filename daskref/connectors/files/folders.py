"""The session directories of one user: find, identify and remove them."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from daskref.background import make_rlock
from daskref.connectors.files.locks import open_plain
from daskref.connectors.processes import load_record
from daskref.exceptions import ConnectorUnavailableError

logger = logging.getLogger(__name__)

#: Held while a session is removed. Reentrant: the collector may end another one there.
removing = make_rlock()
#: Directories that could not be swept, for which a warning was logged.
_failed: set[str] = set()


def is_hidden(path: str) -> bool:
    """Tell whether a directory is being made or removed."""
    return os.path.basename(path).startswith(".")


def hidden_name(path: str) -> str:
    """Return a name for the directory while it is made or removed."""
    root, name = os.path.split(path)
    return os.path.join(root, f".{name}-{secrets.token_hex(4)}")


def hide(path: str) -> str | None:
    """Rename a directory to a hidden name and return that; ``None`` if it is gone."""
    if is_hidden(path):
        return path
    hidden = hidden_name(path)
    try:
        os.rename(path, hidden)
    except FileNotFoundError:
        return None
    return hidden


def is_older(path: str, seconds: float) -> bool:
    """Tell whether a directory exists and had no entry added for *seconds*."""
    try:
        return time.time() - os.lstat(path).st_mtime > seconds
    except FileNotFoundError:
        return False


def own_directories(root: str) -> list[str]:
    """Return this user's session directories in *root*, hidden ones included."""
    prefix = f"daskref-{os.geteuid()}-"
    found = []
    try:
        listed = os.listdir(root)
    except OSError:
        return []  # not there, or going away
    for name in listed:
        if name.removeprefix(".").startswith(prefix):
            path = os.path.join(root, name)
            with suppress(OSError):  # going away
                there = os.lstat(path)
                if stat.S_ISDIR(there.st_mode) and there.st_uid == os.geteuid():
                    found.append(path)
    return found


def swept(paths: Iterable[str], sweep: Callable[[str], bool]) -> list[str]:
    """Call *sweep* on each path; return those for which it returned true.

    *sweep*: ``(path) -> bool``, whether it removed the directory. Its errors are logged
    once per path, and the next path follows.
    """
    removed = []
    for path in paths:
        try:
            if sweep(path):
                removed.append(path)
        except Exception as exc:  # whatever is in the place of what we wrote
            if path not in _failed:
                _failed.add(path)
                logger.warning("%s cannot be swept and stays: %r", path, exc)
    return removed


def check_private(path: str, name: str) -> None:
    """Raise ConnectorUnavailableError unless a directory is this user's alone.

    *name*: whose directory it is, for the error.
    """
    try:
        there = os.lstat(path)
    except OSError as exc:
        raise ConnectorUnavailableError(
            name,
            f"there is no {path} here: it lives on another host or in another "
            "container, or has ended",
        ) from exc
    if not stat.S_ISDIR(there.st_mode):
        raise ConnectorUnavailableError(name, f"{path} is not a directory")
    if there.st_uid != os.geteuid():
        raise ConnectorUnavailableError(name, f"{path} belongs to another user")
    if there.st_mode & 0o077:
        raise ConnectorUnavailableError(
            name, f"{path} is open to other users; its mode should be 0700"
        )


def read_identity(path: str) -> dict[str, str]:
    """Return the content of the identity file; empty if there is none."""
    try:
        identity = load_record(read_own(os.path.join(path, "identity")))
    except OSError:
        return {}
    return {name: value for name, value in identity.items() if isinstance(value, str)}


def read_own(path: str) -> bytes:
    """Return the content of a small file; raises as :func:`open_plain` does."""
    with open(open_plain(path), "rb") as file:
        return file.read()


def remove_whole(path: str, last: str) -> None:
    """Remove a directory, the file *last* as the last of its entries.

    If the process is killed meanwhile, the rest of the directory still has that file.
    """
    try:
        with os.scandir(path) as entries:
            found = [entry for entry in entries if entry.name != last]
    except OSError:
        return  # another one removes it
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(entry.path)
    shutil.rmtree(path, ignore_errors=True)


def remove_spill(path: str, nonce: str | None) -> None:
    """Remove a session's directory on disk, hidden or not, by its *nonce*."""
    root, name = os.path.split(path)
    for found in own_directories(root):
        there = os.path.basename(found)
        ours = there == name or there.startswith(hidden_spill(name))
        if ours and read_identity(found).get("nonce", nonce) == nonce:
            remove_whole(found, "identity")


def hidden_spill(name: str) -> str:
    """Return the prefix of a spill directory's name while the directory is made.

    The prefix does not reveal *name*, so no other user can create *name* first.
    """
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f".daskref-{os.geteuid()}-{digest}.spill-"
