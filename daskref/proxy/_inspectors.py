"""Detect callers that only inspect a value, so that a proxy does not fetch for them."""

from __future__ import annotations

import sys
from types import FrameType

#: Modules that search arguments for tasks, keys and collections, or choose how to
#: pickle. A proxy tells them its own class, not the target's: otherwise they would
#: fetch a list to look into it, a function to send its code.
_WALKERS = frozenset(
    {
        "cloudpickle.cloudpickle",
        "dask._task_spec",
        "dask.base",
        "dask.core",
        "dask.delayed",
        "dask.tokenize",
        "dask.utils",
        "daskref.objects.pickling",
        "distributed.client",
        "distributed.protocol.pickle",
        "distributed.protocol.serialize",
        "distributed.utils_comm",
    }
)
#: Packages whose modules all do.
_WALKING = ("daskref.client.", "daskref.graph.")
#: Modules through which they call.
_ASKED_THROUGH = frozenset({"abc", "dataclasses", "inspect"})


def walked() -> bool:
    """Return whether a module that only inspects values made our caller's call."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if module not in _ASKED_THROUGH:
            return module in _WALKERS or module.startswith(_WALKING)
        frame = frame.f_back
    return False
