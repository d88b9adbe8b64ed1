"""Shared memory of one host: files on a tmpfs, mapped by each reader.

Read ``connector`` first, then ``files.session``: a directory that goes with its last
process. ``_room`` bounds what is in memory and has a directory on disk for the rest;
``_moving`` moves objects there when memory runs low.
"""

from daskref.connectors.shm.connector import (
    SharedMemoryConnector as SharedMemoryConnector,
)
from daskref.connectors.shm.connector import SharedMemoryKey as SharedMemoryKey

__all__ = [
    "SharedMemoryConnector",
    "SharedMemoryKey",
]
