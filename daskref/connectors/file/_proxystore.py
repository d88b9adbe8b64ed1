"""Objects that ProxyStore's ``FileConnector`` wrote: a file each, and a marker."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from daskref.connectors.files.locks import open_plain
from daskref.connectors.files.names import READY
from daskref.connectors.files.reading import read_whole
from daskref.connectors.files.recycling import unlink
from daskref.exceptions import WireError

#: What can be an object of ProxyStore's in the directory: no path, nothing hidden.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")


@dataclass(frozen=True)
class ProxyStoreFile:
    """One object; it need not be there.

    Parameters
    ----------
    path
        Of the file.
    """

    path: str

    @classmethod
    def of_key(cls, key: object, directory: str) -> ProxyStoreFile | None:
        """Return the object of a key of ProxyStore's; ``None`` for other keys.

        Parameters
        ----------
        key
            Of any kind.
        directory
            In which ProxyStore's connector writes.

        Raises
        ------
        WireError
            If it is a key of theirs with a name that they do not make.
        """
        if not isinstance(key, tuple) or len(key) != 1:
            return None
        if type(key) is not tuple and getattr(key, "_fields", None) != ("filename",):
            return None
        name = key[0]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise WireError(f"{key!r} is not a FileKey that ProxyStore made")
        return cls(os.path.join(directory, name))

    def exists(self) -> bool:
        """Tell whether the object is there, whole."""
        return os.path.lexists(self.path + READY) and os.path.lexists(self.path)

    def get(self) -> memoryview | None:
        """Return the object; ``None`` if it is not there.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        if not os.path.lexists(self.path + READY):
            return None
        try:
            fd = open_plain(self.path)
        except FileNotFoundError:
            return None
        try:
            # Not mapped: they may write it again.
            return read_whole(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def take(self) -> memoryview | None:
        """Return the object and delete it; ``None`` if another did. Raises as get."""
        view = self.get()
        return view if view is not None and self.evict() else None

    def evict(self) -> bool:
        """Delete the object; whether this very call deleted it."""
        unlink(self.path + READY)
        return unlink(self.path)
