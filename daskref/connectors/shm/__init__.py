"""Shared memory of one host."""

from daskref.connectors.shm.connector import (
    SharedMemoryConnector as SharedMemoryConnector,
)
from daskref.connectors.shm.connector import SharedMemoryKey as SharedMemoryKey

__all__ = [
    "SharedMemoryConnector",
    "SharedMemoryKey",
]
