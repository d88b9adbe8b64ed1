"""Patience with network file systems, which show late what another host did."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence

from daskref.exceptions import WireError


class Patience:
    """Look for objects again, as a network file system needs it, for a bounded time.

    What another host wrote may be there late. What it deleted may be there still,
    until it is read: that is a stale handle.

    Parameters
    ----------
    directories
        In which the objects are.
    seconds
        For which an object is looked for.
    local
        Whether the file system is a local one: that is asked once.
    """

    seconds: float
    _directories: tuple[str, ...]
    _local: bool

    def __init__(self, directories: Sequence[str], seconds: float, local: bool) -> None:
        self._directories = tuple(directories)
        self.seconds = seconds
        self._local = local

    def look(
        self, find: Callable[[], memoryview | None], wait: bool = True
    ) -> memoryview | None:
        """Return what *find* does, once that is an object, or the time is up.

        Raises WireError, OSError if *find* still does at the end.

        Parameters
        ----------
        find
            () -> the object, or ``None``.
        wait
            Whether to look more than once.
        """
        pause = 0.01
        patience = 0.0 if self._local or not wait else self.seconds
        deadline = time.monotonic() + patience
        if not self._local:
            self.refresh()
        while True:
            late = time.monotonic() >= deadline
            try:
                view = find()
                if view is not None or late:
                    return view
            except WireError:
                if late:
                    raise
            except OSError as exc:
                if late or exc.errno != errno.ESTALE:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
            self.refresh()

    def refresh(self) -> None:
        """Let the system ask the server again what is in the directories."""
        for path in self._directories:
            try:
                with os.scandir(path) as entries:
                    next(entries, None)
            except OSError:
                continue  # the session is gone: looking for the object tells
