"""Frames of ours that tracebacks leave out, wherever they leave out Dask's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])


def hidden_like(module: ModuleType) -> Callable[[F], F]:
    """Let tracebacks treat a function as if a module of Dask's had it.

    Parameters
    ----------
    module
        Of Dask's.

    Notes
    -----
    Dask goes by the names of files: workers by a fixed list, clients by the setting
    ``admin.traceback.shorten``, which is the user's to change. The name that the
    function's code gets leads to our file, but through the name of Dask's. Whatever
    reads source files takes the detour out, or asks the module's loader.
    """

    def mark(func: F) -> F:
        function, theirs = cast(FunctionType, func), module.__file__
        assert theirs is not None
        try:
            way = os.path.relpath(function.__code__.co_filename, theirs)
        except ValueError:  # Windows: on another drive
            return func
        name = os.path.join(theirs, way)
        function.__code__ = function.__code__.replace(co_filename=name)
        return func

    return mark
