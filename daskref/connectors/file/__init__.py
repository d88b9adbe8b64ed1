"""A directory that several hosts share: no locks, which network file systems may lack.

Read ``connector`` first, then ``_patience`` (files that another host wrote, and that
show late). ``files.presence`` tells which participants live.
"""

from daskref.connectors.file.connector import FileConnector as FileConnector
from daskref.connectors.file.connector import FileKey as FileKey

__all__ = ["FileConnector", "FileKey"]
