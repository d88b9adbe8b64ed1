"""Whole objects at paths: the interface of a store behind the connector."""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

#: Prefix of an object's name while it is written, in stores that show unfinished ones.
PART = re.compile(r"^\.w-[0-9a-f]{8}-")


def part_name(name: str) -> str:
    """Return a hidden name, unique to one write of the object."""
    return f".w-{secrets.token_hex(4)}-{name}"


class Blobs(ABC):
    """Objects at paths. Errors are the driver's.

    Every method may be called from several threads at once, never on an event loop.

    Parameters
    ----------
    open_filesystem
        ``() -> file system``, a new one.
    place
        URL below which the objects are.
    limits
        ``part_size``: bytes of the pieces of objects; ``concurrency``: requests at the
        same time, of all threads; ``timeout``: seconds for a request with its retries.
    """

    #: Whether :meth:`put` can create an object only if there is none.
    exclusive: bool = False

    def __init__(
        self,
        open_filesystem: Callable[[], Any],
        place: str,
        limits: Mapping[str, Any],
    ) -> None:
        self._open = open_filesystem
        self._part_nbytes: int = limits["part_size"]
        self._concurrency: int = limits["concurrency"]
        self._timeout: float = limits["timeout"]
        self._fs: Any = None
        self._root = self._ready()._strip_protocol(place)

    @abstractmethod
    def _ready(self) -> Any:
        """Return the file system, opened if need be."""

    @abstractmethod
    def path(self, *names: str) -> str:
        """Return a path below the URL."""

    @abstractmethod
    def put(
        self, path: str, views: Sequence[memoryview], exclusive: bool = False
    ) -> None:
        """Write an object as a whole or not at all.

        Raises FileExistsError if *exclusive* and there is an object already.
        """

    def put_many(self, objects: Sequence[tuple[str, Sequence[memoryview]]]) -> None:
        """Write several objects."""
        for path, views in objects:
            self.put(path, views)

    @abstractmethod
    def get(self, path: str, nbytes: int | None) -> memoryview | None:
        """Read an object into new, writable memory; ``None`` if there is none.

        *nbytes*: its size; ``None`` to look it up. Raises WireError if it has another
        size.
        """

    def get_many(
        self, objects: Sequence[tuple[str, int | None]]
    ) -> list[memoryview | None]:
        """Read several objects; see :meth:`get`."""
        return [self.get(path, nbytes) for path, nbytes in objects]

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the size of an object; ``None`` if there is none."""

    @abstractmethod
    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects. Silent about missing ones."""

    @abstractmethod
    def copy(self, source: str, target: str, nbytes: int) -> bool:
        """Copy an object within the store; False if that is not possible."""

    @abstractmethod
    def sizes(self, directory: str) -> dict[str, int]:
        """Return the sizes of the objects right below a path, by name."""

    @abstractmethod
    def directories(self) -> list[str]:
        """Return the names of the directories right below the URL."""

    def make_directory(self, directory: str) -> None:
        """Make a directory, where the store has any."""
        return

    def remove_directory(self, directory: str) -> None:
        """Remove an empty directory, and the unfinished uploads below it."""
        return

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    @abstractmethod
    def forget(self) -> None:
        """Drop the parent's connections, in a forked child."""


def pieces(views: Sequence[memoryview], nbytes: int) -> Iterator[list[memoryview]]:
    """Cut consecutive buffers into pieces of *nbytes*, without copying."""
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
