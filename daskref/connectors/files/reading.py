"""Read a file that cannot be mapped."""

from __future__ import annotations

import os

from daskref.exceptions import WireError


def read_whole(fd: int, nbytes: int) -> memoryview:
    """Return the first bytes of a file, writable.

    Raises
    ------
    WireError
        If it has fewer.
    """
    # Not bytes: the result is writable, as a mapping is.
    view = memoryview(bytearray(nbytes))
    done = 0
    while done < nbytes:
        count = os.preadv(fd, [view[done : done + 2**28]], done)
        if not count:
            raise WireError(f"a file ended after {done} of {nbytes} bytes")
        done += count
    return view
