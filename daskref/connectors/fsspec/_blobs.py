"""Whole objects at paths: what the connector wants of a store of fsspec's."""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

#: What stands before the name of an object while it is written, where a store shows
#: it too early.
PART = re.compile(r"^\.w-[0-9a-f]{8}-")


def part_name(name: str) -> str:
    """Return a hidden name; each who writes the object has one of its own."""
    return f".w-{secrets.token_hex(4)}-{name}"


class Blobs(ABC):
    """Objects at paths. Errors are the driver's.

    Every method may be called from several threads at once, never on an event loop.
    """

    #: Whether :meth:`put` can tell in one step that the path was free.
    exclusive: bool = False

    @abstractmethod
    def path(self, *names: str) -> str:
        """Return the path of something below the place."""

    @abstractmethod
    def put(
        self, path: str, views: Sequence[memoryview], exclusive: bool = False
    ) -> None:
        """Write an object; whole, or not at all.

        Raises FileExistsError if it is there already, and *exclusive*.
        """

    @abstractmethod
    def put_many(self, objects: Sequence[tuple[str, Sequence[memoryview]]]) -> None:
        """Write several objects."""

    @abstractmethod
    def get(self, path: str, nbytes: int | None) -> memoryview | None:
        """Read an object into memory of its own.

        Raises WireError if it has another size.

        Parameters
        ----------
        nbytes
            Its size; ``None``: look first.

        Returns
        -------
        memoryview or None
            Writable; ``None`` if it is not there.
        """

    @abstractmethod
    def get_many(
        self, objects: Sequence[tuple[str, int | None]]
    ) -> list[memoryview | None]:
        """Read several objects; see :meth:`get`."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the size of an object; ``None`` if it is not there."""

    @abstractmethod
    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects. Silent about those that are not there."""

    @abstractmethod
    def copy(self, source: str, target: str, nbytes: int) -> bool:
        """Copy an object within the store; False if it is not there, or it cannot."""

    @abstractmethod
    def sizes(self, directory: str) -> dict[str, int]:
        """Return the objects right below a path, by name, with their sizes."""

    @abstractmethod
    def directories(self) -> list[str]:
        """Return the names of what has objects below it, below the place."""

    @abstractmethod
    def make_directory(self, directory: str) -> None:
        """Make a directory, where the store has any."""

    @abstractmethod
    def remove_directory(self, directory: str) -> None:
        """Remove what is left of an empty directory: unfinished uploads as well."""

    @abstractmethod
    def close(self) -> None:
        """Give up connections."""

    @abstractmethod
    def forget(self) -> None:
        """Start anew in a forked child: connections are the parent's."""


def pieces(views: Sequence[memoryview], nbytes: int) -> Iterator[list[memoryview]]:
    """Cut buffers, one after another, into pieces of *nbytes*; nothing is copied."""
    piece: list[memoryview] = []
    room = nbytes
    for view in views:
        start = 0
        while start < view.nbytes:
            part = view[start : start + room]
            piece.append(part)
            start += part.nbytes
            room -= part.nbytes
            if not room:
                yield piece
                piece, room = [], nbytes
    if piece:
        yield piece
