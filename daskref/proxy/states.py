"""The states of a proxy: made, resolved, forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from dask.sizeof import sizeof

from daskref.exceptions import ResolveError
from daskref.objects.reference import Metadata, describe
from daskref.proxy._classes import described_class, settle, unknown_class
from daskref.proxy._slots import base_of as base_of
from daskref.proxy._slots import delete_target, has_target, new, set_class, set_factory
from daskref.proxy._slots import is_proxy as is_proxy


@dataclass(frozen=True, eq=False, slots=True)
class Described:
    """A factory and the metadata of its target; it travels in place of the factory.

    Proxies answer with the metadata until they are resolved.
    """

    factory: Callable[[], Any]
    metadata: Metadata

    def __call__(self) -> Any:
        """Return the target."""
        return self.factory()


def create(
    cls: Any,
    factory: Callable[[], Any],
    *,
    cache_defaults: bool = False,
    target: Any = None,
) -> Any:
    """Return a new proxy of a user's class; see :class:`~daskref.Proxy`.

    Imports, fetches and calls nothing. Raises TypeError if the factory cannot be
    called.
    """
    if not callable(factory):
        raise TypeError(
            f"Proxy() takes a callable without arguments that returns the target, "
            f"not {type(factory).__name__}"
        )
    if target is not None:
        known = isinstance(getattr(factory, "metadata", None), Metadata)
        if cache_defaults and not known:
            factory = Described(factory, describe(target, sizeof(target)))
        made = create(cls, factory)
        populate(made, target)
        return made
    metadata = getattr(factory, "metadata", None)
    if metadata is None or not isinstance(metadata, Metadata):
        made = cls.__daskref_unknown__ or unknown_class(cls)
    else:
        made = described_class(cls, metadata)
    proxy: Any = new(made)
    set_factory(proxy, factory)
    return proxy


def blank(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Return a proxy whose class has an ``__init__`` that Python calls next."""
    return create(cls, _uninitialized)


def _uninitialized() -> NoReturn:
    raise ResolveError(
        "a proxy that is not initialized",
        "the __init__ of its class has to call super().__init__(factory) first",
    )


def initialize(proxy: Any, factory: Callable[[], Any], **options: Any) -> None:
    """Give a blank proxy its factory; see :func:`create`."""
    if proxy.__daskref_factory__ is not _uninitialized:
        return  # the __new__ of its class has given it one
    model = create(base_of(type(proxy)), factory, **options)
    set_factory(proxy, model.__daskref_factory__)
    if has_target(model):
        populate(proxy, model.__daskref_target__)
    else:
        set_class(proxy, type(model))


def populate(proxy: Any, target: Any) -> None:
    """Resolve a proxy that no other thread has yet to an object at hand."""
    settle(proxy, target.__daskref_target__ if is_proxy(target) else target)


def forget(proxy: Any) -> None:
    """Let a proxy fetch its target anew at its next use.

    No other thread may be using the proxy.
    """
    cls, metadata = base_of(type(proxy)), proxy.__daskref_metadata__
    made = unknown_class(cls) if metadata is None else described_class(cls, metadata)
    resolved = has_target(proxy)
    # What finds no target must find the class that fetches: this order.
    set_class(proxy, made)
    if resolved:
        delete_target(proxy)
