"""Objects <-> the stored layout.

::

    prelude   magic, version, header length, total length     32 bytes
    header    msgpack: Dask's own header, frame lengths
    frames    each at a multiple of 64 bytes

Object <-> frames is Dask's own ``serialize``/``deserialize``, so every type that Dask
knows is known here. Writing joins nothing: :func:`encode` returns the buffers of the
object itself, with small ones between them. Reading copies nothing: :func:`decode`
hands slices of the buffer to Dask.
"""

from __future__ import annotations

import operator
import pickle
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack
from distributed.protocol.serialize import (
    deserialize,
    msgpack_decode_default,
    msgpack_encode_default,
    serialize,
)
from distributed.protocol.utils import msgpack_opts
from distributed.utils import ensure_memoryview

from daskref.connectors.base import Buffer
from daskref.connectors.memory import raw
from daskref.exceptions import NotProxiableError, WireError
from daskref.foreign import is_proxystores, read_proxystores

MAGIC = b"\x89daskref"
#: Version of the layout. A reader refuses newer ones.
VERSION = 1
ALIGNMENT = 64
#: Families that turn objects into frames.
SERIALIZERS = ("dask", "pickle")

_PRELUDE = struct.Struct("<8sHHIQQ")
_PADDING = bytes(ALIGNMENT)


class Encoded(NamedTuple):
    """An object as buffers, to be written one after another."""

    #: Prelude, header, and the object's own buffers, with padding between them.
    frames: list[Buffer]
    #: Sum of their lengths.
    nbytes: int


def _padding(position: int) -> int:
    return -position % ALIGNMENT


def encode(obj: Any) -> Encoded:
    """Turn an object into the buffers of the stored layout.

    Parameters
    ----------
    obj
        Anything that Dask can serialize.

    Returns
    -------
    Encoded
        The large buffers are the object's own memory, not copies: write them before
        the object changes.

    Raises
    ------
    NotProxiableError
        If Dask cannot serialize the object; the reason is chained.
    """
    try:
        header, frames = serialize(obj, serializers=SERIALIZERS, on_error="raise")
        views = [_raw(frame) for frame in frames]
    except Exception as exc:
        cls = type(obj)
        raise NotProxiableError(
            f"{cls.__module__}.{cls.__qualname__}",
            f"it does not serialize ({exc.__cause__ or exc!r})",
        ) from exc
    packed: bytes = msgpack.dumps(
        {"header": header, "lengths": [view.nbytes for view in views]},
        default=msgpack_encode_default,
        use_bin_type=True,
    )
    position = _PRELUDE.size + len(packed)
    out: list[Buffer] = [b"", packed]
    for view in views:
        if pad := _padding(position):
            out.append(_PADDING[:pad])
        out.append(view)
        position += pad + view.nbytes
    out[0] = _PRELUDE.pack(MAGIC, VERSION, 0, len(packed), position, 0)
    return Encoded(out, position)


def _raw(frame: Buffer) -> memoryview:
    view = memoryview(frame)
    return raw(view if view.contiguous else bytearray(view))


def decode(buffer: Buffer) -> Any:
    """Turn a stored buffer back into the object.

    Parameters
    ----------
    buffer
        What a connector returned for a key.

    Returns
    -------
    object
        Backed by *buffer* without a copy, for types that can be; as writable as the
        original: of a read-only *buffer*, Dask then makes a copy. What ProxyStore's
        store wrote is read by ProxyStore.

    Raises
    ------
    WireError
        If daskref did not write the buffer, a newer version did, it is cut short, or
        damaged.
    """
    view = ensure_memoryview(buffer)
    if view.nbytes < _PRELUDE.size:
        if is_proxystores(view):
            return read_proxystores(view)
        raise WireError(
            f"{view.nbytes} bytes are too few for a stored object: the object is "
            "truncated, or daskref did not write it"
        )
    magic, version, _, packed, total, _ = _PRELUDE.unpack_from(view)
    if magic != MAGIC:
        if is_proxystores(view):
            return read_proxystores(view)
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
        meta = msgpack.loads(
            view[_PRELUDE.size : position],
            object_hook=msgpack_decode_default,
            use_list=False,
            **msgpack_opts,
        )
        header, lengths = (
            dict(meta["header"]),
            list(map(operator.index, meta["lengths"])),
        )
        known = "is-collection" in header or header["serializer"] in SERIALIZERS
        if not known or min(lengths, default=0) < 0:
            raise ValueError(f"header {header!r:.200}, lengths {lengths!r:.200}")
    except Exception as exc:
        raise WireError(f"the object's header is damaged ({exc!r})") from exc
    try:
        return deserialize(header, _split(view, position, lengths))
    except (pickle.UnpicklingError, EOFError) as exc:
        raise WireError(f"the object's frames are damaged ({exc!r})") from exc


def _split(view: memoryview, position: int, lengths: Sequence[int]) -> list[memoryview]:
    frames = []
    for length in lengths:
        position += _padding(position)
        if position + length > view.nbytes:
            raise WireError("the object's frames are truncated")
        frames.append(view[position : position + length])
        position += length
    return frames
