"""Sameness by content."""

from __future__ import annotations

from typing import Any

from daskref.objects.codec import encode


def content_token(obj: Any) -> str:
    """Return a string that is equal for equal content.

    Raises NotProxiableError if the object does not serialize.

    Returns
    -------
    str
        The hash of exactly what is stored of the object: its type, structure and bytes,
        whether arrays are writable, in which order they lie in memory. Objects that are
        equal may still differ, as by the chunks of their Arrow columns, or by which of
        their parts are one object: that costs a second copy in a store, no more.

    Notes
    -----
    Memory is hashed where it lies. Python is not asked whether objects are equal, nor
    Dask's ``tokenize``, which hashes parts that do not always tell values apart.
    """
    return encode(obj).token
