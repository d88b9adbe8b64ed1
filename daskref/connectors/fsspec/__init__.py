"""Objects in S3, and in all other stores that fsspec supports.

Read ``_connector`` first, then ``_blobs``: the interface of a store, with three
implementations (``_bucket``, ``_s3``, ``_tree``). ``_session`` and ``_leases`` tell,
without locks, which participants are alive and which objects are in use. ``_options``
and ``_opening`` read URLs and storage options; ``_errors`` translates the drivers'
errors.
"""

from daskref.connectors.fsspec._connector import FsspecConnector as FsspecConnector
from daskref.connectors.fsspec._connector import FsspecKey as FsspecKey

__all__ = ["FsspecConnector", "FsspecKey"]
