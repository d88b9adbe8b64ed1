"""File locks, which the kernel drops when their holder dies.

A ``flock`` belongs to the open file, not to the process: a forked child shares it. So
code that ends a lock calls `unlock`; closing the file is not enough.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

SHARED = fcntl.LOCK_SH
EXCLUSIVE = fcntl.LOCK_EX


def try_lock(fd: int, operation: int) -> bool:
    """Take the lock if it is free; return whether it was."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Drop the lock, also for forked children that share it."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def names(path: str, fd: int) -> bool:
    """Tell whether *path* itself, not the target of a link, is the open file."""
    try:
        there = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def open_plain(path: str, flags: int = os.O_RDONLY, dir_fd: int | None = None) -> int:
    """Open a regular file of this user, close-on-exec.

    Raises PermissionError if it is a link, not a regular file, or another user's. The
    check is made on the open file, which cannot be replaced any more. The parameters
    are those of ``os.open``.
    """
    # without waiting, should it be a pipe
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600, dir_fd=dir_fd)
    there = os.fstat(fd)
    if there.st_uid == os.geteuid() and stat.S_ISREG(there.st_mode):
        return fd
    os.close(fd)
    raise PermissionError(errno.EPERM, "not a file of this user's", path)


def open_within(directory: str, name: str) -> int:
    """Open a file for reading in a directory that no other user may write to.

    Raises PermissionError if the directory or the file is a link or another user's, or
    if other users may write to the directory.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
    fd = os.open(directory, flags)
    try:
        _check_alone(os.fstat(fd), directory)
        return open_plain(name, dir_fd=fd)
    finally:
        os.close(fd)


def check_alone(directory: str) -> None:
    """Raise PermissionError if other users may write to a directory; see `open_within`.

    To be called before a file is written there by path: the directory may be another
    user's replacement.
    """
    _check_alone(os.lstat(directory), directory)


def _check_alone(there: os.stat_result, directory: str) -> None:
    is_own = stat.S_ISDIR(there.st_mode) and there.st_uid == os.geteuid()
    if not is_own or there.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "not this user's alone", directory)


@contextmanager
def exclusively(path: str) -> Iterator[int | None]:
    """Hold the exclusive lock of the file at *path*.

    Yields
    ------
    int or None
        The descriptor; ``None`` if the file is locked by another process, or gone.
    """
    try:
        fd = open_plain(path, os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    try:
        if not try_lock(fd, EXCLUSIVE):
            yield None
            return
        try:
            yield fd if names(path, fd) else None
        finally:
            unlock(fd)
    finally:
        os.close(fd)


def write_whole(path: str, text: bytes) -> None:
    """Create or replace a small file in one atomic step."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}-{os.urandom(4).hex()}")
    fd = open_plain(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            os.write(fd, text)
        finally:
            os.close(fd)
        os.rename(part, path)
    except BaseException:
        os.unlink(part)
        raise
