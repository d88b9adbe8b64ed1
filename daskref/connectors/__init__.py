"""Connectors: bytes in, bytes out. They know nothing of objects or Dask."""

from __future__ import annotations

from daskref.connectors.base import Connector as Connector
from daskref.connectors.base import Usage as Usage
from daskref.connectors.file import FileConnector as FileConnector
from daskref.connectors.file import FileKey as FileKey
from daskref.connectors.fsspec import FsspecConnector as FsspecConnector
from daskref.connectors.fsspec import FsspecKey as FsspecKey
from daskref.connectors.local import LocalConnector as LocalConnector
from daskref.connectors.local import LocalKey as LocalKey
from daskref.connectors.registry import open_connector as open_connector
from daskref.connectors.shm import SharedMemoryConnector as SharedMemoryConnector
from daskref.connectors.shm import SharedMemoryKey as SharedMemoryKey

__all__ = [
    "Connector",
    "FileConnector",
    "FileKey",
    "FsspecConnector",
    "FsspecKey",
    "LocalConnector",
    "LocalKey",
    "SharedMemoryConnector",
    "SharedMemoryKey",
    "Usage",
    "open_connector",
]
