"""A directory that hosts share."""

from daskref.connectors.file.connector import FileConnector as FileConnector
from daskref.connectors.file.connector import FileKey as FileKey

__all__ = [
    "FileConnector",
    "FileKey",
]
