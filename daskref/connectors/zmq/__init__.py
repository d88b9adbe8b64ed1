"""The shared memory of many hosts, fetched once per host."""

from daskref.connectors.zmq._objects import ZmqKey as ZmqKey
from daskref.connectors.zmq.connector import ZmqConnector as ZmqConnector
from daskref.connectors.zmq.sources import Source as Source
from daskref.connectors.zmq.sources import Sources as Sources

__all__ = [
    "Source",
    "Sources",
    "ZmqConnector",
    "ZmqKey",
]
