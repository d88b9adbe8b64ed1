"""The directories of one user's sessions: found, told apart, and removed as a whole."""

from __future__ import annotations

import hashlib
import json
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
from daskref.exceptions import ConnectorUnavailableError

logger = logging.getLogger(__name__)

#: Held while a session is removed. Reentrant: the collector may end another one there.
removing = make_rlock()
#: Directories that could not be swept, which was said once.
_failed: set[str] = set()


def is_hidden(path: str) -> bool:
    """Tell whether a directory is half-made, or half-removed."""
    return os.path.basename(path).startswith(".")


def hidden_name(path: str) -> str:
    """Return a name for the directory while it is made, or removed."""
    root, name = os.path.split(path)
    return os.path.join(root, f".{name}-{secrets.token_hex(4)}")


def hide(path: str) -> str | None:
    """Give a directory a hidden name, and return it; ``None`` if it is gone."""
    if is_hidden(path):
        return path
    hidden = hidden_name(path)
    try:
        os.rename(path, hidden)
    except FileNotFoundError:
        return None
    return hidden


def is_older(path: str, seconds: float) -> bool:
    """Tell whether a directory is there that nothing was added to for so long."""
    try:
        return time.time() - os.lstat(path).st_mtime > seconds
    except FileNotFoundError:
        return False


def own_directories(root: str) -> list[str]:
    """Return the session directories of this user in *root*, half-made ones too."""
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
    """Return what was removed of some directories; one that fails ends nothing.

    *sweep*: ``(path) -> bool``: remove it if nobody needs it; whether it was removed.
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
    """Refuse a directory that is not this user's alone.

    Raises ConnectorUnavailableError with the reason; *name* is whose directory it is.
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
    """Return what the identity file says; nothing if it is not there."""
    try:
        identity = json.loads(read_own(os.path.join(path, "identity")))
    except (OSError, ValueError):
        return {}
    if not isinstance(identity, dict):
        return {}
    return {name: value for name, value in identity.items() if isinstance(value, str)}


def read_own(path: str) -> bytes:
    """Return what is in a small file; raises as :func:`open_plain` does."""
    with open(open_plain(path), "rb") as file:
        return file.read()


def remove_whole(path: str, last: str) -> None:
    """Remove a directory, and in it one file last.

    Whoever is killed on the way leaves a directory that still says what it is.
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
    """Remove what a session has on disk, half-made or half-removed as well.

    *path*: where the session says that it is.
    """
    root, name = os.path.split(path)
    for found in own_directories(root):
        there = os.path.basename(found)
        ours = there == name or there.startswith(hidden_spill(name))
        if ours and read_identity(found).get("nonce", nonce) == nonce:
            remove_whole(found, "identity")


def hidden_spill(name: str) -> str:
    """Return what the name begins with that a directory has on disk while it is made.

    Who sees it cannot tell *name* from it, and so cannot be there first.
    """
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f".daskref-{os.geteuid()}-{digest}.spill-"
