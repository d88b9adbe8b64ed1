"""Objects behind fsspec's asynchronous file systems: buckets of object stores."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar

from daskref.annotations import override
from daskref.background import forget_in_child
from daskref.connectors.fsspec._blobs import Blobs, pieces
from daskref.connectors.fsspec._errors import NO_BUCKET, code
from daskref.exceptions import WireError

T = TypeVar("T")

#: Seconds that a thread waits longer than the requests that it waits for.
_MARGIN = 5.0
#: Seconds for deleting what may have been written by a request without an answer.
_CLEANING = 5.0

#: File systems of parents of forks. Their finalizers would use the parent's
#: connections, so they are never collected in a child.
_of_parents: list[Any] = []


class Bucket(Blobs):
    """Objects behind an asynchronous file system of fsspec's.

    Notes
    -----
    Requests run on fsspec's own event loop, in its thread. Besides the objects, they
    take ``part_size`` times ``concurrency`` of memory, for any number of threads.
    """

    exclusive = True

    def __init__(
        self,
        open_filesystem: Callable[[], Any],
        place: str,
        limits: Mapping[str, Any],
    ) -> None:
        self._finished = 0
        self._mutex = Lock()
        super().__init__(open_filesystem, place, limits)

    @override
    def _ready(self) -> Any:
        with self._mutex:
            if self._fs is None:
                self._slots = asyncio.Semaphore(self._concurrency)
                self._fs = self._open()
                forget_in_child(self)
            return self._fs

    @override
    def path(self, *names: str) -> str:
        return "/".join((self._root, *names))

    # Threads and the loop.

    def _run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on fsspec's loop and wait for it.

        Each of its requests has its own timeout. If no request of this process ends for
        longer than that, the loop itself is stuck.
        """
        loop = self._ready().loop
        future = asyncio.run_coroutine_threadsafe(make(), loop)
        try:
            while True:
                finished = self._finished
                try:
                    return future.result(self._timeout + _MARGIN)
                except concurrent.futures.TimeoutError:
                    if future.done() or finished == self._finished:
                        raise
        finally:
            future.cancel()

    async def _request(
        self, make: Callable[[], Awaitable[T]], timeout: float | None = None
    ) -> T:
        """Make one request, within the limits of time and number."""
        async with self._slots:
            try:
                return await asyncio.wait_for(make(), timeout or self._timeout)
            finally:
                self._finished += 1

    # Writing.

    @override
    def put(
        self, path: str, views: Sequence[memoryview], exclusive: bool = False
    ) -> None:
        self._run(lambda: self._put(path, views, exclusive))

    @override
    def put_many(self, objects: Sequence[tuple[str, Sequence[memoryview]]]) -> None:
        async def put_all() -> None:
            await gather(self._put(path, views) for path, views in objects)

        self._run(put_all)

    async def _put(
        self, path: str, views: Sequence[memoryview], exclusive: bool = False
    ) -> None:
        try:
            if sum(view.nbytes for view in views) <= self._part_nbytes:
                await self._request(
                    lambda: self._put_whole(path, b"".join(views), exclusive)
                )
            else:
                await self._put_parts(path, views, exclusive)
        except (TimeoutError, asyncio.CancelledError):
            # Without an answer, it may have been written or not.
            if not exclusive:
                with suppress(Exception):
                    await self._request(lambda: self._delete([path]), _CLEANING)
            raise

    async def _put_whole(self, path: str, data: bytes, exclusive: bool) -> None:
        mode = {"mode": "create"} if exclusive else {}
        await self._fs._pipe_file(path, data, **mode)

    async def _put_parts(
        self, path: str, views: Sequence[memoryview], exclusive: bool
    ) -> None:
        if exclusive:
            await self._request(lambda: self._put_whole(path, b"".join(views), True))
            return
        # Through a thread: the file object itself waits for this loop.
        async with self._slots:
            await asyncio.to_thread(self._write, path, views)

    def _write(self, path: str, views: Sequence[memoryview]) -> None:
        file = self._fs.open(path, "wb", block_size=self._part_nbytes)
        try:
            for piece in pieces(views, self._part_nbytes):
                file.write(b"".join(piece))
                self._finished += 1
        except BaseException:
            # Closing would publish what there is.
            file.closed = True
            file.discard()
            raise
        file.close()

    # Reading.

    @override
    def get(self, path: str, nbytes: int | None) -> memoryview | None:
        return self._run(lambda: self._get(path, nbytes))

    @override
    def get_many(
        self, objects: Sequence[tuple[str, int | None]]
    ) -> list[memoryview | None]:
        async def get_all() -> list[memoryview | None]:
            return await gather(self._get(path, nbytes) for path, nbytes in objects)

        return self._run(get_all)

    async def _get(self, path: str, nbytes: int | None) -> memoryview | None:
        if not nbytes:
            there = await self._size(path)
            if there is None:
                return None
            check_size(path, there, there if nbytes is None else nbytes)
            nbytes = there
        view = memoryview(bytearray(nbytes))

        async def read(start: int, end: int) -> None:
            # One byte more at the end of the object tells whether it is longer.
            more = end == nbytes
            data = await self._request(
                lambda: self._fs._cat_file(path, start=start, end=end + more)
            )
            check_size(path, start + len(data), end)
            view[start:end] = data

        starts = range(0, nbytes, self._part_nbytes)
        try:
            await gather(read(s, min(s + self._part_nbytes, nbytes)) for s in starts)
        except FileNotFoundError as exc:
            if code(exc) == NO_BUCKET:
                raise
            return None
        except OSError:
            # A range outside of the object is an error of its own with each store.
            with suppress(OSError):
                there = await self._size(path)
                check_size(path, nbytes if there is None else there, nbytes)
            raise
        return view

    @override
    def size(self, path: str) -> int | None:
        return self._run(lambda: self._size(path))

    async def _size(self, path: str) -> int | None:
        try:
            return await self._request(lambda: self._stat(path))
        except FileNotFoundError:
            return None

    async def _stat(self, path: str) -> int | None:
        info = await self._fs._info(path)
        return info["size"] if info["type"] == "file" else None

    # Deleting, copying, listing.

    @override
    def delete(self, paths: Sequence[str]) -> None:
        async def delete_all() -> None:
            await gather(
                self._request(lambda some=some: self._delete(some))  # type: ignore[misc]
                for some in self._bunches(paths)
            )

        self._run(delete_all)

    def _bunches(self, paths: Sequence[str]) -> Iterable[Sequence[str]]:
        """Group the paths by request."""
        return ([path] for path in paths)

    async def _delete(self, paths: Sequence[str]) -> None:
        with suppress(FileNotFoundError):
            await self._fs._rm_file(paths[0])

    @override
    def copy(self, source: str, target: str, nbytes: int) -> bool:
        async def copy() -> bool:
            try:
                await self._copy(source, target, nbytes)
            except (FileNotFoundError, NotImplementedError):
                return False
            return True

        return self._run(copy)

    async def _copy(self, source: str, target: str, nbytes: int) -> None:
        await self._request(lambda: self._fs._cp_file(source, target))

    @override
    def sizes(self, directory: str) -> dict[str, int]:
        async def find() -> dict[str, Any]:
            try:
                found: dict[str, Any] = await self._request(
                    lambda: self._fs._find(directory, detail=True)
                )
            except FileNotFoundError:
                return {}
            return found

        return by_name(directory, self._run(find))

    @override
    def directories(self) -> list[str]:
        async def ls() -> list[str]:
            try:
                found: list[str] = await self._request(
                    lambda: self._fs._ls(self._root, detail=False)
                )
            except FileNotFoundError:
                return []
            return found

        return [path.rstrip("/").rpartition("/")[2] for path in self._run(ls)]

    # Its own life.

    def close(self) -> None:
        """Close the connections. A later call of another method opens them again."""
        with self._mutex:
            fs, self._fs = self._fs, None
        if fs is not None:
            self._disconnect(fs)

    def _disconnect(self, fs: Any) -> None:
        """Close connections; by default the driver does so when it is collected."""

    @override
    def forget(self) -> None:
        if self._fs is not None:
            _of_parents.append(self._fs)
        self._fs = None
        self._mutex = Lock()


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all coroutines; at the first error, cancel the others and await them."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def check_size(path: str, there: int, nbytes: int) -> None:
    """Raise WireError if an object has another size than its key says."""
    if there != nbytes:
        raise WireError(
            f"{path} has {'more' if there > nbytes else 'less'} than the {nbytes} "
            "bytes that its key says: it was not written by daskref, or was changed "
            "since"
        )


def by_name(directory: str, found: dict[str, Any]) -> dict[str, int]:
    """Return the sizes of the objects right below a directory, by name."""
    names = {path.removeprefix(f"{directory}/"): info for path, info in found.items()}
    return {
        name: info["size"]
        for name, info in names.items()
        if "/" not in name and info["type"] == "file"
    }
