"""Sameness by content."""

from __future__ import annotations

import sys
from typing import Any

import xxhash
from dask.tokenize import tokenize
from distributed.utils import ensure_memoryview


def content_token(obj: Any) -> str:
    """Return a string that is equal for equal content.

    Dask's ``tokenize`` decides, except for plain NumPy arrays, whose memory is hashed
    where it lies (XXH3, 128 bit): a third of the time.

    Parameters
    ----------
    obj
        Not changed, not kept. Two objects that differ in type, shape, data type,
        memory order or in being writable have different tokens.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(obj) is numpy.ndarray:
        flags = obj.flags
        if not obj.dtype.hasobject and (flags.c_contiguous or flags.f_contiguous):
            head = (repr(obj.dtype), obj.shape, obj.strides)
            digest = xxhash.xxh3_128(repr((*head, flags.writeable)).encode())
            raw = obj.ravel(order="K").view("u1") if obj.nbytes else b""
            digest.update(ensure_memoryview(raw))
            return f"x{digest.hexdigest()}"
        return tokenize(obj, flags.writeable)
    return tokenize(obj)
