"""Objects in object stores and other file systems of fsspec."""

from daskref.connectors.fsspec._connector import FsspecConnector as FsspecConnector
from daskref.connectors.fsspec._connector import FsspecKey as FsspecKey

__all__ = [
    "FsspecConnector",
    "FsspecKey",
]
