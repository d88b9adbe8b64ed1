"""What a worker holds, seen from its event loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed.spill import SpillBuffer


def peek(data: Mapping[Any, Any], key: Any) -> Any:
    """Return what a worker has in memory under a key; ``None`` if it has nothing.

    Nothing is read from disk, or counted as read.

    Parameters
    ----------
    data
        ``Worker.data``: Dask's own, or what the user has chosen.
    key
        A Dask key.
    """
    return (data.memory if isinstance(data, SpillBuffer) else data).get(key)
