"""Metadata of a target that was at hand when its proxy was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask.sizeof import sizeof

from daskref.objects.reference import Metadata, describe


class Described:
    """A factory and the metadata of its target; it travels in place of the factory.

    Proxies answer with the metadata until they are resolved.
    """

    __slots__ = ("factory", "metadata")

    def __init__(self, factory: Callable[[], Any], metadata: Metadata) -> None:
        self.factory = factory
        self.metadata = metadata

    def __call__(self) -> Any:
        """Return the target."""
        return self.factory()

    def __reduce__(self) -> tuple[Any, ...]:
        return Described, (self.factory, self.metadata)


def described(factory: Callable[[], Any], target: Any) -> Callable[[], Any]:
    """Return a factory with metadata of the target: the given one, if it has any."""
    if isinstance(getattr(factory, "metadata", None), Metadata):
        return factory
    return Described(factory, describe(target, sizeof(target)))
