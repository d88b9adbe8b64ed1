"""ProxyStore's factories: callables, as every proxy takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Factory(Generic[T]):
    """Base of factories; a proxy takes any other callable as well."""

    def __call__(self) -> T:
        """Return the target."""
        return self.resolve()

    def resolve(self) -> T:
        """Return the target; a subclass says how."""
        raise NotImplementedError


class SimpleFactory(Factory[T]):
    """Return an object at hand, which travels with the proxy.

    Parameters
    ----------
    obj
        The target.
    """

    def __init__(self, obj: T) -> None:
        self._obj = obj

    def resolve(self) -> T:
        """Return the target."""
        return self._obj


class LambdaFactory(Factory[T]):
    """Call a function for the target.

    Parameters
    ----------
    target
        ``(*args, **kwargs) -> target``.
    *args, **kwargs
        Its arguments.
    """

    def __init__(self, target: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        self._call = target, args, kwargs

    def resolve(self) -> T:
        """Return the target."""
        target, args, kwargs = self._call
        return target(*args, **kwargs)


__all__ = ["Factory", "LambdaFactory", "SimpleFactory"]
