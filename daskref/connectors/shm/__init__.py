"""Shared memory of one host: files on a tmpfs, mapped by each reader.

Read ``connector`` first, then ``files.session``: a directory that goes with its last
process. ``_room`` has its objects: in memory, within a budget, and on disk past it
(``_spill``); ``_moving`` moves objects there when memory runs low.
"""

from daskref.connectors.shm.connector import (
    SharedMemoryConnector as SharedMemoryConnector,
)
from daskref.connectors.shm.connector import SharedMemoryKey as SharedMemoryKey

__all__ = ["SharedMemoryConnector", "SharedMemoryKey"]
