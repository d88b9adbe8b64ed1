"""Objects of tests in shared memory, and the files that they are in."""

from __future__ import annotations

import os
from pathlib import Path


def fill(nbytes, value=1):
    return bytes([value]) * nbytes


def files(connector, pattern="*-*"):
    """Objects in shared memory."""
    return sorted(p for p in Path(connector.directory).glob(pattern) if p.is_file())


def pooled(connector):
    return sorted(Path(connector.directory, "free").iterdir())


def inode(connector, key):
    return os.stat(Path(connector.directory, key.name)).st_ino
