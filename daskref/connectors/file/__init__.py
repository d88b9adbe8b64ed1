"""Objects in a directory that several hosts share.

Nothing here relies on file locks, which network file systems may lack. Read
``connector`` first. ``files.presence`` tells which participants are alive.
"""

from daskref.connectors.file.connector import FileConnector as FileConnector
from daskref.connectors.file.connector import FileKey as FileKey

__all__ = ["FileConnector", "FileKey"]
