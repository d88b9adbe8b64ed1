"""What is known of a target that its user had at hand when the proxy was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask.sizeof import sizeof

from daskref.objects.reference import Metadata, describe


class Described:
    """A factory, and metadata of what it returns; it travels in the factory's place.

    Parameters
    ----------
    factory
        The user's.
    metadata
        What proxies answer with until they are resolved.
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
    """Return a factory that knows the target, if it does not by itself."""
    if isinstance(getattr(factory, "metadata", None), Metadata):
        return factory
    return Described(factory, describe(target, sizeof(target)))
