"""Objects behind fsspec's synchronous file systems: memory, local, SFTP and others.

Known limit: the drivers decide how long to wait for a server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from daskref.annotations import override
from daskref.background import forget_in_child, make_lock
from daskref.connectors.fsspec._blobs import Blobs, part_name, pieces
from daskref.connectors.fsspec._bucket import by_name, check_size

#: fsspec does not check and take a name in memory in one step.
_in_memory = make_lock()


class Tree(Blobs):
    """Objects behind a synchronous file system of fsspec's.

    They are written and read in pieces of ``part_size``; the other limits do not apply.
    """

    def __init__(
        self,
        open_filesystem: Callable[[], Any],
        place: str,
        limits: Mapping[str, Any],
    ) -> None:
        super().__init__(open_filesystem, place, limits)
        self._memory = self._fs.protocol == "memory"
        # Other file systems have no atomic creation.
        self.exclusive = self._memory or bool(getattr(self._fs, "local_file", False))
        forget_in_child(self)

    @override
    def path(self, *names: str) -> str:
        return "/".join((self._root.rstrip("/"), *names))

    def _ready(self) -> Any:
        if self._fs is None:
            self._fs = self._open()
        return self._fs

    @override
    def put(
        self, path: str, views: Sequence[memoryview], exclusive: bool = False
    ) -> None:
        fs = self._ready()
        if self._memory:
            data = b"".join(views)
            with _in_memory:
                fs.pipe_file(path, data, mode="create" if exclusive else "overwrite")
            return
        if exclusive and fs.exists(path):
            raise FileExistsError(path)
        directory, _, name = path.rpartition("/")
        part = f"{directory}/{part_name(name)}"
        try:
            with fs.open(part, "wb") as file:
                for piece in pieces(views, self._part_nbytes):
                    for view in piece:
                        file.write(view)
            if exclusive:  # a local file system
                os.link(part, path)
                fs.rm_file(part)
            else:
                fs.mv(part, path)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(part)
            raise

    @override
    def get(self, path: str, nbytes: int | None) -> memoryview | None:
        fs = self._ready()
        there = self.size(path)
        if there is None:
            return None
        check_size(path, there, there if nbytes is None else nbytes)
        try:
            if self._memory:  # its file objects are shared by all readers
                return memoryview(bytearray(fs.cat_file(path)))
            view = memoryview(bytearray(there))
            done = 0
            with fs.open(path, "rb") as file:
                while done < there:
                    count = file.readinto(view[done : done + self._part_nbytes])
                    if not count:
                        check_size(path, done, there)
                    done += count
        except FileNotFoundError:
            return None
        return view

    @override
    def size(self, path: str) -> int | None:
        try:
            info = self._ready().info(path)
        except FileNotFoundError:
            return None
        return info["size"] if info["type"] == "file" else None

    @override
    def delete(self, paths: Sequence[str]) -> None:
        fs = self._ready()
        for path in paths:
            with suppress(FileNotFoundError):
                fs.rm_file(path)

    @override
    def copy(self, source: str, target: str, nbytes: int) -> bool:
        try:
            self._ready().cp_file(source, target)
        except (FileNotFoundError, NotImplementedError):
            return False
        return True

    @override
    def sizes(self, directory: str) -> dict[str, int]:
        try:
            return by_name(directory, self._ready().find(directory, detail=True))
        except FileNotFoundError:
            return {}

    @override
    def directories(self) -> list[str]:
        try:
            found = self._ready().ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in found]

    @override
    def make_directory(self, directory: str) -> None:
        if not self._memory:
            self._ready().makedirs(directory, exist_ok=True)

    @override
    def remove_directory(self, directory: str) -> None:
        if not self._memory:
            with suppress(OSError):
                self._ready().rmdir(directory)

    def close(self) -> None:
        """Close the connections. A later call of another method opens them again."""
        self._fs = None

    @override
    def forget(self) -> None:
        if not self._memory:
            self._fs = None
