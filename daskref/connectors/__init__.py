"""Connectors: bytes in, bytes out. They know nothing of objects or Dask."""

from __future__ import annotations

from daskref.connectors.base import Connector as Connector
from daskref.connectors.base import Usage as Usage
from daskref.connectors.file import FileConnector as FileConnector
from daskref.connectors.file import FileKey as FileKey
from daskref.connectors.local import LocalConnector as LocalConnector
from daskref.connectors.local import LocalKey as LocalKey
from daskref.connectors.registry import open_connector as open_connector
from daskref.connectors.shm import SharedMemoryConnector as SharedMemoryConnector
from daskref.connectors.shm import SharedMemoryKey as SharedMemoryKey
from daskref.connectors.zmq import ZmqConnector as ZmqConnector
from daskref.connectors.zmq import ZmqKey as ZmqKey

__all__ = [
    "Connector",
    "FileConnector",
    "FileKey",
    "LocalConnector",
    "LocalKey",
    "SharedMemoryConnector",
    "SharedMemoryKey",
    "Usage",
    "ZmqConnector",
    "ZmqKey",
    "open_connector",
]
