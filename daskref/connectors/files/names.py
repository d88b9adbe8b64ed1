"""What the files in a directory of objects are called, and what keys say of them."""

from __future__ import annotations

import os
import re

from daskref.exceptions import WireError

#: What objects are called; the first digits are their writer's.
NAME = re.compile("[0-9a-f]{8}-[0-9a-f]{24}")
#: What stands before the name: of an object's lease, and while it is written.
LEASE, PART = "l-", ".w-"
#: While it is fetched from another host, and of the file that says how far it is;
#: while another host sends it.
ARRIVING, ARRIVAL, PUSHED = ".f-", "f-", ".u-"
#: While it is moved from memory to disk: a second name in memory.
MOVING = ".m-"
#: In keys of objects that were not there yet when the key was made.
UNKNOWN_SIZE = -1


def new_name(writer: str) -> str:
    """Return a name for a new object of the writer with these 8 digits."""
    return f"{writer}-{os.urandom(12).hex()}"


def checked(key: object, kind: type[tuple[str, int]]) -> tuple[str, int]:
    """Return name and size from a key.

    A plain tuple will do: that is what a key is after a message of Dask's.

    Raises
    ------
    WireError
        If it is not a key of this kind, or not one that daskref made.
    """
    if isinstance(key, tuple) and type(key) in (tuple, kind) and len(key) == 2:
        name, nbytes = key
        right = isinstance(name, str) and NAME.fullmatch(name)
        if right and type(nbytes) is int and nbytes >= UNKNOWN_SIZE:
            return name, nbytes
    raise WireError(f"{key!r} is not a {kind.__name__} that daskref made")
