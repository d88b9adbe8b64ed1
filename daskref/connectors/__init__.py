"""Connectors: bytes in, bytes out. They know nothing of objects or Dask.

Read ``base`` (the contract), then ``local`` (the smallest implementation) and
``registry`` (connectors by URL or class). ``adapter`` wraps classes of other libraries,
ProxyStore's included. Each other kind has a folder: ``shm``, ``file``, ``zmq``,
``redis``, ``fsspec``, ``multi``; ``files`` is the common part of the first three.
``sweeping`` decides which objects no process will delete, ``failures`` sorts the
drivers' errors into eight categories; ``credentials``, ``buffers``, ``space``,
``machine``, ``filesystems`` and ``processes`` serve all kinds.
"""

from pkgutil import extend_path
from typing import TYPE_CHECKING

from daskref.connectors._lazy import load as __getattr__  # noqa: F401
from daskref.connectors.base import Connector, DeferrableConnector, Usage
from daskref.connectors.file import FileConnector, FileKey
from daskref.connectors.fsspec import FsspecConnector, FsspecKey
from daskref.connectors.local import LocalConnector, LocalKey
from daskref.connectors.multi import MultiConnector, MultiKey, Policy
from daskref.connectors.registry import open_connector
from daskref.connectors.shm import SharedMemoryConnector, SharedMemoryKey
from daskref.connectors.space import Footprint, Space
from daskref.connectors.zmq import ZmqConnector, ZmqKey

if TYPE_CHECKING:
    from daskref.connectors.redis import RedisConnector, RedisKey

# fmt: off
__all__ = [
    "Connector", "DeferrableConnector", "FileConnector", "FileKey", "Footprint",
    "FsspecConnector", "FsspecKey", "LocalConnector", "LocalKey", "MultiConnector",
    "MultiKey", "Policy", "RedisConnector", "RedisKey", "SharedMemoryConnector",
    "SharedMemoryKey", "Space", "Usage", "ZmqConnector", "ZmqKey", "open_connector",
]
__path__ = extend_path(__path__, __name__)  # daskref.connectors.protocols
