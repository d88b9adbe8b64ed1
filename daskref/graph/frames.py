"""Frames of daskref that tracebacks leave out, as they leave out Dask's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])


def hidden_like(module: ModuleType) -> Callable[[F], F]:
    """Let tracebacks treat a function as if *module*, one of Dask's, had it.

    Dask leaves out frames by file name: workers by a fixed list, clients by the setting
    ``admin.traceback.shorten``, which users may change. The file name that the
    function's code gets here leads to daskref's file by way of Dask's. Code that reads
    source files normalizes the path, or asks the module's loader.
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
