"""Shared memory of one host: files on a tmpfs, mapped by each reader.

Read ``connector`` first, then ``files.session``: a directory that its last process
removes. ``_room`` has its objects: in memory within a budget, and on disk beyond it
(``_spill``). ``_moving`` moves objects to disk when memory runs low.
"""

from daskref.connectors.shm.connector import (
    SharedMemoryConnector as SharedMemoryConnector,
)
from daskref.connectors.shm.connector import SharedMemoryKey as SharedMemoryKey

__all__ = ["SharedMemoryConnector", "SharedMemoryKey"]
