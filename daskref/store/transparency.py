"""Proxies that daskref makes inside Dask, for daskref to resolve: users see none."""

from __future__ import annotations

from typing import Any

from daskref.exceptions import DaskrefError
from daskref.proxy.proxy import get_factory, is_proxy


class FailedFactory:
    """Stands for a value that could not be stored, where that is an error.

    Parameters
    ----------
    error
        Raised by whoever wants the value.
    """

    __slots__ = ("error",)

    transparent = True

    def __init__(self, error: DaskrefError) -> None:
        self.error = error

    def __call__(self) -> Any:
        """Raise the error."""
        raise self.error

    def __reduce__(self) -> tuple[Any, ...]:
        return FailedFactory, (self.error,)


class Unreadable:
    """Stands, in a message to a plain client, for a value that nobody can read.

    Unpickling it raises: a request that fails would be made again and again.

    Parameters
    ----------
    error
        What is raised.
    """

    __slots__ = ("error",)

    def __init__(self, error: DaskrefError) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise, (self.error,)


def _raise(error: DaskrefError) -> None:
    raise error


def is_transparent(obj: Any) -> bool:
    """Tell whether an object is a proxy that daskref made, for daskref to resolve."""
    return is_proxy(obj) and getattr(get_factory(obj), "transparent", False) is True


def reveal(obj: Any) -> Any:
    """Return a new private object for a transparent proxy; anything else as it is.

    Blocks; never on an event loop.
    """
    return get_factory(obj)() if is_transparent(obj) else obj
