"""Connectors: bytes in, bytes out. They know nothing of objects or Dask."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from daskref.connectors.base import Connector as Connector
from daskref.connectors.base import DeferrableConnector as DeferrableConnector
from daskref.connectors.base import Usage as Usage
from daskref.connectors.file.connector import FileConnector as FileConnector
from daskref.connectors.file.connector import FileKey as FileKey
from daskref.connectors.fsspec._connector import FsspecConnector as FsspecConnector
from daskref.connectors.fsspec._connector import FsspecKey as FsspecKey
from daskref.connectors.local import LocalConnector as LocalConnector
from daskref.connectors.local import LocalKey as LocalKey
from daskref.connectors.multi._connector import MultiConnector as MultiConnector
from daskref.connectors.multi._connector import MultiKey as MultiKey
from daskref.connectors.multi._policy import Policy as Policy
from daskref.connectors.registry import open_connector as open_connector
from daskref.connectors.shm.connector import (
    SharedMemoryConnector as SharedMemoryConnector,
)
from daskref.connectors.shm.connector import SharedMemoryKey as SharedMemoryKey
from daskref.connectors.space import Space as Space
from daskref.connectors.zmq._objectkey import ZmqKey as ZmqKey
from daskref.connectors.zmq.connector import ZmqConnector as ZmqConnector

if TYPE_CHECKING:
    from daskref.connectors.redis._connector import RedisConnector as RedisConnector
    from daskref.connectors.redis._objects import RedisKey as RedisKey

__all__ = [
    "Connector",
    "DeferrableConnector",
    "FileConnector",
    "FileKey",
    "FsspecConnector",
    "FsspecKey",
    "LocalConnector",
    "LocalKey",
    "MultiConnector",
    "MultiKey",
    "Policy",
    "RedisConnector",
    "RedisKey",
    "SharedMemoryConnector",
    "SharedMemoryKey",
    "Space",
    "Usage",
    "ZmqConnector",
    "ZmqKey",
    "open_connector",
]

#: Names whose modules need a driver, imported when they are first asked for: the
#: module, and the extra that brings the driver.
_LAZY = {
    "RedisConnector": ("daskref.connectors.redis", "redis"),
    "RedisKey": ("daskref.connectors.redis._objects", "redis"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _LAZY[name]
    try:
        return getattr(import_module(module), name)
    except ImportError as exc:
        raise ImportError(
            f"{name} needs its driver: `pip install 'daskref[{extra}]'` ({exc})"
        ) from exc
