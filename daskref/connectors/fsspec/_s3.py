"""S3 through s3fs: parts in parallel, one request for many deletions.

s3fs writes parts one after another, joins each object, and hides failed deletions, so
this module makes the requests itself. All go through ``S3FileSystem._call_s3``, on
which its public ``call_s3`` is based.
"""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from daskref.connectors.fsspec._blobs import pieces
from daskref.connectors.fsspec._bucket import Bucket, gather

#: Least size of a part, the last one excepted, and most parts of one object.
LEAST_PART, MOST_PARTS = 5 * 2**20, 10_000
#: Most objects that one request deletes.
_BUNCH = 1000
#: Objects above this size are copied in parts of it.
_COPIED_AT_ONCE = 256 * 2**20
#: Seconds for giving up an upload.
_ABORTING = 10.0


class S3Bucket(Bucket):
    """Objects in a bucket of S3, or of a store with its protocol."""

    async def _call(self, method: str, path: str, **arguments: Any) -> Any:
        bucket, key, _ = self._fs.split_path(path)
        return await self._fs._call_s3(method, Bucket=bucket, Key=key, **arguments)

    async def _ask(
        self, method: str, path: str, timeout: float | None = None, **arguments: Any
    ) -> Any:
        return await self._request(
            lambda: self._call(method, path, **arguments), timeout
        )

    async def _put_whole(self, path: str, data: bytes, exclusive: bool) -> None:
        await self._call("put_object", path, Body=data, **_if_new(exclusive))

    async def _put_parts(
        self, path: str, views: Sequence[memoryview], exclusive: bool
    ) -> None:
        nbytes = sum(view.nbytes for view in views)
        size = max(self._part_nbytes, math.ceil(nbytes / MOST_PARTS))

        async def upload(number: int, upload_id: str, piece: list[memoryview]) -> Any:
            # The lambda joins a piece only when its request begins.
            answer = await self._request(
                lambda: self._call(
                    "upload_part",
                    path,
                    PartNumber=number,
                    UploadId=upload_id,
                    Body=b"".join(piece),
                )
            )
            return answer["ETag"]

        await self._assemble(
            path,
            lambda upload_id: (
                upload(number, upload_id, piece)
                for number, piece in enumerate(pieces(views, size), 1)
            ),
            exclusive,
        )

    async def _assemble(
        self, path: str, parts: Callable[[str], Iterable[Any]], exclusive: bool = False
    ) -> None:
        """Make an object from parts.

        *parts*: ``upload id -> coroutines``, one per part; each returns the part's
        ETag.
        """
        upload_id = (await self._ask("create_multipart_upload", path))["UploadId"]
        try:
            etags = await gather(parts(upload_id))
            listed = [{"PartNumber": n, "ETag": e} for n, e in enumerate(etags, 1)]
            await self._ask(
                "complete_multipart_upload",
                path,
                UploadId=upload_id,
                MultipartUpload={"Parts": listed},
                **_if_new(exclusive),
            )
        except BaseException:
            # The parts of an unfinished upload are invisible, and are paid for.
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.shield(self._abort(path, upload_id))
            raise

    async def _abort(self, path: str, upload_id: str) -> None:
        await self._ask("abort_multipart_upload", path, _ABORTING, UploadId=upload_id)

    async def _stat(self, path: str) -> int | None:
        size: int = (await self._call("head_object", path))["ContentLength"]
        return size

    def _bunches(self, paths: Sequence[str]) -> Iterable[Sequence[str]]:
        return (paths[i : i + _BUNCH] for i in range(0, len(paths), _BUNCH))

    async def _delete(self, paths: Sequence[str]) -> None:
        bucket, _, _ = self._fs.split_path(paths[0])
        keys = [{"Key": self._fs.split_path(path)[1]} for path in paths]
        answer = await self._fs._call_s3(
            "delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True}
        )
        for error in answer.get("Errors", []):
            kind = PermissionError if error.get("Code") == "AccessDenied" else OSError
            raise kind(errno.EACCES, f"{error.get('Code')}: {error.get('Message')}")

    async def _copy(self, source: str, target: str, nbytes: int) -> None:
        bucket, key, _ = self._fs.split_path(source)
        origin = {"Bucket": bucket, "Key": key}
        if nbytes <= _COPIED_AT_ONCE:
            await self._ask("copy_object", target, CopySource=origin)
            return

        async def copy(number: int, upload_id: str, start: int) -> Any:
            end = min(start + _COPIED_AT_ONCE, nbytes) - 1
            answer = await self._ask(
                "upload_part_copy",
                target,
                PartNumber=number,
                UploadId=upload_id,
                CopySource=origin,
                CopySourceRange=f"bytes={start}-{end}",
            )
            return answer["CopyPartResult"]["ETag"]

        starts = range(0, nbytes, _COPIED_AT_ONCE)
        await self._assemble(
            target,
            lambda upload_id: (
                copy(number, upload_id, start) for number, start in enumerate(starts, 1)
            ),
        )

    def remove_directory(self, directory: str) -> None:
        """Abort the unfinished uploads below the directory, whose writers are gone."""
        self._run(lambda: self._abort_all(directory))

    async def _abort_all(self, directory: str) -> None:
        bucket, prefix, _ = self._fs.split_path(f"{directory}/x")
        answer = await self._request(
            lambda: self._fs._call_s3(
                "list_multipart_uploads", Bucket=bucket, Prefix=prefix[:-1]
            )
        )
        await gather(
            self._abort(f"{bucket}/{upload['Key']}", upload["UploadId"])
            for upload in answer.get("Uploads", [])
        )

    def _disconnect(self, fs: Any) -> None:
        if getattr(fs, "_s3creator", None) is not None:
            fs.close_session(fs.loop, fs._s3creator)


def _if_new(exclusive: bool) -> dict[str, Any]:
    return {"IfNoneMatch": "*"} if exclusive else {}
