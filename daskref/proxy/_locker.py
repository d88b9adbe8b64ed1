"""Proxies that nobody can use by mistake."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")


class ProxyLocker(Generic[T]):
    """Keep a proxy from being resolved until it is unlocked.

    Parameters
    ----------
    proxy
        The proxy; :meth:`unlock` returns it.

    Notes
    -----
    A locker is no proxy: it has none of the target's attributes and methods, and
    :func:`daskref.resolve` refuses it. It pickles with its proxy, so code that must not
    look into the proxy can pass it on.

    Examples
    --------
    >>> from daskref import Proxy
    >>> locked = ProxyLocker(Proxy(lambda: [1, 2]))
    >>> locked
    <ProxyLocker, locked>
    >>> locked.unlock()[0]
    1
    """

    __slots__ = ("__proxy",)

    def __init__(self, proxy: T) -> None:
        self.__proxy = proxy

    def unlock(self) -> T:
        """Return the proxy."""
        return self.__proxy

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a ProxyLocker has no attribute {name!r}: its unlock() returns the proxy"
        )

    def __repr__(self) -> str:
        return "<ProxyLocker, locked>"

    def __reduce__(self) -> tuple[Any, ...]:
        return ProxyLocker, (self.__proxy,)
