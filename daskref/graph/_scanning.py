"""Pickling something to see whether anything in it is large.

Private Dask names used here, checked by ``tests/test_private_names.py``:

======================================  ============================================
name                                    what for
======================================  ============================================
``_task_spec.TaskRef``                  futures among arguments
======================================  ============================================
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any, NamedTuple

from dask._task_spec import TaskRef

from daskref.graph.literals import exact_nbytes
from daskref.graph.nodes import Lazy
from daskref.objects.pickling import ByValuePickler


class FoundLargeError(Exception):
    """Ends a scan."""


class Scan(NamedTuple):
    """A pickle, and the buffers beside it."""

    data: bytes
    buffers: list[pickle.PickleBuffer]

    @property
    def nbytes(self) -> int:
        """Size of it all."""
        return len(self.data) + sum(buffer.raw().nbytes for buffer in self.buffers)


class _File(io.BytesIO):
    most: int

    def write(self, piece: Any) -> int:
        if self.tell() + memoryview(piece).nbytes > self.most:
            raise FoundLargeError
        return super().write(piece)


class _Scanner(ByValuePickler):
    threshold: int
    by_key: bool

    def persistent_id(self, obj: Any) -> Any:
        nbytes = exact_nbytes(obj)
        if (nbytes is not None and nbytes > self.threshold) or type(obj) is Lazy:
            raise FoundLargeError
        if self.by_key and issubclass(type(obj), TaskRef):
            return obj.key, TaskRef.__name__
        return None


def scan(obj: Any, threshold: int, for_hash: bool = False) -> Scan:
    """Pickle an object, up to the first large value in it.

    Parameters
    ----------
    obj
        The object.
    threshold
        Bytes that no value in it may have whose type says how large it is.
    for_hash
        Whether all together may have no more, and the pickle is to be hashed only: it
        has no buffers beside it, and futures in it count by their keys.

    Raises
    ------
    FoundLargeError
        If there is more.
    Exception
        Whatever pickling the object raises.
    """
    file = _File()
    file.most = threshold if for_hash else sys.maxsize
    buffers: list[pickle.PickleBuffer] = []
    scanner = _Scanner(file, None if for_hash else buffers.append)
    scanner.threshold = threshold
    scanner.by_key = for_hash
    scanner.dump(obj)
    return Scan(file.getvalue(), buffers)
