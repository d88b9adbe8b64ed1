"""Objects <-> the stored layout.

::

    prelude   magic, version, header length, total length     32 bytes
    header    msgpack: Dask's own header, frame lengths
    frames    each at a multiple of 64 bytes

The frames are a pickle and its buffers (:mod:`daskref.objects.pickling`), in the form
of Dask's family ``pickle``. Dask's other families serialize objects that do not pickle,
and classes that a user has registered with Dask. Writing joins nothing: :func:`encode`
returns the buffers of the object itself, with small ones between them. Reading copies
nothing: :func:`decode` hands slices of the buffer to Dask.

A failure is stored as its exception, in place of the object.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================================  ============================================
name                                        what for
==========================================  ============================================
``protocol.serialize.dask_serialize``       its ``_lookup``: class -> how it serializes
==========================================  ============================================
"""

from __future__ import annotations

import operator
import pickle
import struct
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cloudpickle
import msgpack
import xxhash
from distributed.protocol.serialize import (
    Serialized,
    dask_serialize,
    deserialize,
    msgpack_decode_default,
    msgpack_encode_default,
    serialize,
)
from distributed.protocol.utils import msgpack_opts
from distributed.utils import ensure_memoryview

from daskref.connectors.base import Buffer
from daskref.connectors.buffers import raw
from daskref.exceptions import NotProxiableError, WireError
from daskref.objects.pickling import Pickle, pickled

MAGIC = b"\x89daskref"
#: Version of the layout. A reader refuses newer ones.
VERSION = 1
ALIGNMENT = 64
#: Families of Dask that read frames.
SERIALIZERS = ("dask", "pickle")

_PRELUDE = struct.Struct("<8sHHIQQ")
_PADDING = bytes(ALIGNMENT)
#: Before a pickled exception.
_FAILED = b"\x89daskref-failed\n"


class Encoded:
    """An object as buffers, to be written one after another.

    Parameters
    ----------
    frames
        The buffers. Large ones are the object's own memory, not copies: they change
        with the object.
    nbytes
        Sum of their lengths.
    pickle
        The pickle that they were made of, if any.
    head_nbytes
        Number of the first bytes that can run code when the object is loaded; the bytes
        after them, at the beginning of a frame, are data. Default: all.
    """

    frames: list[Buffer]
    nbytes: int
    pickle: Pickle | None
    head_nbytes: int
    _token: str | None

    def __init__(
        self,
        frames: list[Buffer],
        nbytes: int,
        pickle: Pickle | None = None,
        head_nbytes: int | None = None,
    ) -> None:
        self.frames = frames
        self.nbytes = nbytes
        self.pickle = pickle
        self.head_nbytes = nbytes if head_nbytes is None else head_nbytes
        self._token = None

    @property
    def token(self) -> str:
        """A hash of all that is stored (XXH3, 128 bit), made when first asked for.

        Objects of one token are stored alike, and so come back alike: in type,
        structure and bytes, in whether arrays are writable, and in memory order. Equal
        objects may have two tokens, as for the chunks of Arrow columns, or for parts
        that are one object: that costs a second copy in a store, no more. The token
        relies neither on ``==`` nor on Dask's ``tokenize``, which hashes parts that do
        not always tell values apart.
        """
        if self._token is None:
            digest = xxhash.xxh3_128()
            for frame in self.frames:
                digest.update(frame)
            self._token = digest.hexdigest()
        return self._token

    def serialized(self) -> Serialized | None:
        """Return the object as Dask's messages carry one; ``None`` if it is no pickle.

        Any process that accepts Dask's family ``pickle`` reads it.
        """
        if self.pickle is None:
            return None
        views = [buffer.raw() for buffer in self.pickle.buffers]
        return Serialized(_header(views), [b"".join(self.pickle.pieces), *views])


def _header(views: Sequence[memoryview]) -> dict[str, Any]:
    """Return the header of Dask's family for a pickle and these buffers."""
    writeable = tuple(not view.readonly for view in views)
    return {"serializer": "pickle", "writeable": writeable}


def _padding(position: int) -> int:
    return -position % ALIGNMENT


def encode(obj: Any, *, result: bool = False) -> Encoded:
    """Turn an object into the buffers of the stored layout.

    Raises NotProxiableError if the object cannot be serialized; the reason is chained.

    Parameters
    ----------
    obj
        Anything that Dask can serialize.
    result
        Whether to make its arrays contiguous, as Dask does with results: those are
        copied.

    Returns
    -------
    Encoded
        The large buffers are the object's own memory, not copies: write them before
        the object changes.
    """
    if _is_users(type(obj)):
        with suppress(Exception):  # as Dask then asks its next family
            return _encode_by_dask(obj)
    try:
        made = pickled(obj, result=result)
    except Exception as exc:
        return _encode_otherwise(obj, exc)
    views = [buffer.raw() for buffer in made.buffers]
    return _laid_out(_header(views), [made.pieces, *([view] for view in views)], made)


def _is_users(cls: type) -> bool:
    """Tell whether a user has registered with Dask how this very class is serialized.

    A function that is registered for a base would make an object of the base.
    """
    function = dask_serialize._lookup.get(cls)
    return function is not None and not str(function.__module__).startswith(
        ("dask.", "distributed.")
    )


def _encode_by_dask(obj: Any) -> Encoded:
    header, frames = serialize(obj, serializers=("dask",), on_error="raise")
    return _laid_out(header, [[_raw(frame)] for frame in frames])


def _encode_otherwise(obj: Any, reason: Exception) -> Encoded:
    """Let Dask try its families on an object that does not pickle."""
    try:
        return _encode_by_dask(obj)
    except Exception:
        cls = type(obj)
        raise NotProxiableError(
            f"{cls.__module__}.{cls.__qualname__}",
            f"it does not serialize ({reason!r})",
        ) from reason


def _laid_out(
    header: dict[str, Any], frames: list[list[Buffer]], made: Pickle | None = None
) -> Encoded:
    """Return the layout of frames, each of them in pieces."""
    lengths = [sum(memoryview(piece).nbytes for piece in frame) for frame in frames]
    packed: bytes = msgpack.dumps(
        {"header": header, "lengths": lengths},
        default=msgpack_encode_default,
        use_bin_type=True,
    )
    position = _PRELUDE.size + len(packed)
    out: list[Buffer] = [b"", packed]
    head = None
    for frame, length in zip(frames, lengths, strict=True):
        if pad := _padding(position):
            out.append(_PADDING[:pad])
        out += frame
        position += pad + length
        if made is not None and head is None:
            head = position  # of a pickle, the first frame; its buffers follow
    out[0] = _PRELUDE.pack(MAGIC, VERSION, 0, len(packed), position, 0)
    return Encoded(out, position, made, head)


def _raw(frame: Buffer) -> memoryview:
    view = memoryview(frame)
    return raw(view if view.contiguous else bytearray(view))


def decode(buffer: Buffer) -> Any:
    """Turn a stored buffer back into the object.

    Raises WireError if daskref did not write the buffer, a newer version did, it is cut
    short, or damaged.

    Parameters
    ----------
    buffer
        What a connector returned for a key.

    Returns
    -------
    object
        Backed by *buffer* without a copy, for types that can be; as writable as the
        original: of a read-only *buffer*, Dask then makes a copy.
    """
    view = ensure_memoryview(buffer)
    if view.nbytes < _PRELUDE.size:
        raise WireError(
            f"{view.nbytes} bytes are too few for a stored object: the object is "
            "truncated, or daskref did not write it"
        )
    magic, version, _, packed, total, _ = _PRELUDE.unpack_from(view)
    if magic != MAGIC:
        raise WireError(
            f"the bytes start with {magic!r}, not {MAGIC!r}: daskref did not write them"
        )
    if version > VERSION:
        raise WireError(
            f"the object has layout version {version}, this daskref reads up to "
            f"{VERSION}: use the same daskref on all processes"
        )
    if view.nbytes < total or total < _PRELUDE.size + packed:
        raise WireError(
            f"the object should have {total} bytes but has {view.nbytes}: it is "
            "truncated"
        )
    position = _PRELUDE.size + packed
    try:
        header, lengths = _unpacked(view, packed)
        known = "is-collection" in header or header["serializer"] in SERIALIZERS
        if not known or min(lengths, default=0) < 0:
            raise ValueError(f"header {header!r:.200}, lengths {lengths!r:.200}")
    except Exception as exc:
        raise WireError(f"the object's header is damaged ({exc!r})") from exc
    try:
        return deserialize(header, _split(view, position, lengths))
    except (pickle.UnpicklingError, EOFError) as exc:
        raise WireError(f"the object's frames are damaged ({exc!r})") from exc


def in_band_nbytes(view: memoryview) -> int:
    """Return the size of a stored object's pickle, without its buffers.

    Raises ValueError if daskref did not write *view*, which begins with the layout.
    """
    magic, _, _, packed, _, _ = _PRELUDE.unpack_from(view)
    if magic != MAGIC:
        raise ValueError("daskref did not write it")
    return _unpacked(view, packed)[1][0]


def _unpacked(view: memoryview, nbytes: int) -> tuple[dict[str, Any], list[int]]:
    """Return Dask's header and the lengths of the frames."""
    meta = msgpack.loads(
        view[_PRELUDE.size : _PRELUDE.size + nbytes],
        object_hook=msgpack_decode_default,
        use_list=False,
        **msgpack_opts,
    )
    return dict(meta["header"]), list(map(operator.index, meta["lengths"]))


def _split(view: memoryview, position: int, lengths: Sequence[int]) -> list[memoryview]:
    frames = []
    for length in lengths:
        position += _padding(position)
        if position + length > view.nbytes:
            raise WireError("the object's frames are truncated")
        frames.append(view[position : position + length])
        position += length
    return frames


@dataclass(frozen=True, slots=True, eq=False)
class Failure:
    """An exception in place of an object; :func:`outcome` raises it."""

    exception: BaseException


def outcome(obj: Any) -> Any:
    """Return an object; raise the exception of a failure."""
    if type(obj) is Failure:
        raise obj.exception.with_traceback(None)
    return obj


def dump_failure(exception: BaseException) -> bytes:
    """Return the bytes to store for a failure.

    The traceback is kept as text, as is an exception that does not pickle.
    """
    lines = traceback.format_exception(exception) if exception.__traceback__ else []
    try:
        data = cloudpickle.dumps((exception, "".join(lines)))
        cloudpickle.loads(data)
    except Exception:
        text = "".join(traceback.format_exception_only(exception)).strip()
        data = cloudpickle.dumps((RuntimeError(text), "".join(lines)))
    return b"".join([_FAILED, data])


def load_failure(data: memoryview) -> Failure | None:
    """Return the failure that was stored; ``None`` for another object."""
    if data[: len(_FAILED)] != _FAILED:
        return None
    exception, text = cloudpickle.loads(data[len(_FAILED) :])
    if text:
        exception.add_note(f"It was set on a future by:\n{text}")
    return Failure(exception)
