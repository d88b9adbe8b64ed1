"""Transparent lazy proxies.

A proxy stands for an object, which its first real use fetches. Its class has exactly
the special methods of the target, so operators, protocols and ``isinstance`` behave as
they would on the target itself; the proxy forwards everything else. The namespace of a
proxy belongs to its target: operations on the proxy itself are functions of this
module, never methods.

Known limits
------------
docs/transparency.md lists, for each kind of target, what differs. In general, C code
that looks at the real type sees a proxy. These need :func:`extract`:

- ``json.dumps``, ``marshal``, ``"".join([p])`` and other methods of ``str`` and
  ``bytes`` (``p in text`` too), ``"%s %s" % p`` for a tuple, ``complex(1, p)``,
  ``math.floor(p)`` of a string, ``p is None``;
- Arrow's and Polars' functions that want an array, a table or a frame of theirs,
  compiled code with typed arguments;
- ``memoryview(p)``, ``np.frombuffer(p)``, ``io.BytesIO(p)`` and whatever else wants a
  buffer, before Python 3.12 (``bytes(p)`` works); from then on ``np.asarray(p)`` of
  bytes gives integers;
- ``pd.Series(p)`` of a scalar or a string, and other functions of pandas that ask
  whether a value is list-like;
- ``dataclasses.is_dataclass(p)``, which is False on purpose: Dask would take the proxy
  apart. ``dataclasses.fields(p)`` works.

A proxy without metadata, or of a type whose module is not imported, has every method
until it is resolved, so ``callable(p)`` and ``hasattr(p, "__iter__")`` are True; but
``await p``, ``anext(p)`` and the patterns ``[…]`` and ``{…}`` of ``match`` need
``resolve(p)`` first. Until a proxy is resolved, ``p.__module__`` and ``p.__doc__`` are
those of Proxy; and while one with metadata is unresolved, special attributes
(``__name__``) are looked up on the target's type only.

Ordinary metadata (``shape``, ``columns``) of an unresolved proxy is a copy: naming the
columns of a frame by ``p.columns.name = "x"`` needs ``resolve(p)`` first.

In-place operators change a mutable target and keep the proxy (``p += 1`` for an
array); for other targets the name is bound to the plain result, as in ``n += 1``.
Changes do not travel: a proxy pickles as its factory.

Subclasses of Proxy keep their class, resolved or not. Names that a subclass defines go
before the target's, and are set on the proxy; ``object.__setattr__`` sets other fields
of its own. A subclass may have an ``__init__`` with any arguments, which calls
``super().__init__(factory)``. Neither fields nor arguments travel: ``__init__`` is not
called when a proxy is unpickled or copied.
"""

from __future__ import annotations

import copy
import sys
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar

import cloudpickle

from daskref.exceptions import NotStoredError, ResolveError
from daskref.objects.reference import Reference
from daskref.proxy.states import (
    Described,
    Slots,
    base_of,
    blank,
    create,
    has_target,
    initialize,
)
from daskref.proxy.states import is_proxy as is_proxy

T = TypeVar("T")


class Proxy(Slots[T]):
    """Stand for an object, which the first real use fetches.

    Parameters
    ----------
    factory
        ``() -> target``. Called at most once, or again if it failed. It should pickle.
        If it has an attribute ``metadata`` that is a
        :class:`~daskref.objects.reference.Metadata`, the unresolved proxy answers from
        that: ``isinstance`` (imports the type's module, nothing more), ``hash``,
        ``len``, ``repr``, and attributes such as ``shape``, ``dtype`` or ``columns``
        (see :mod:`daskref.objects.attributes`).
    cache_defaults
        Whether the proxy, where it is unpickled, answers as if its factory had metadata
        of *target*.
    target
        The factory's result, if it is at hand: then the proxy is resolved.

    Raises
    ------
    TypeError
        If the factory cannot be called.

    Notes
    -----
    Thread-safe: threads that use an unresolved proxy wait until one of them has
    fetched the target. Any use may therefore be slow and must not happen on an event
    loop. A failure to resolve raises :class:`~daskref.exceptions.ResolveError`, with
    the cause chained, whatever the operation: never an ``AttributeError``, ``KeyError``
    or ``StopIteration``, which Python would swallow.

    ``type(p)`` is a subclass of Proxy, and another one after it was resolved;
    ``isinstance(p, Proxy)`` is always True.

    Pickling never resolves: a proxy travels as its factory. ``copy`` and ``deepcopy``
    of an unresolved proxy give another unresolved proxy with the same factory; of a
    resolved one a copy of the target, not a proxy.

    Examples
    --------
    >>> p = Proxy(lambda: [1, 2, 3])
    >>> p
    <Proxy, not resolved>
    >>> p[0], len(p), isinstance(p, list)
    (1, 3, True)
    >>> p
    [1, 2, 3]

    See Also
    --------
    extract : Get the target itself.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __new__(
            cls,
            factory: Callable[[], T],
            *,
            cache_defaults: bool = False,
            target: T | None = None,
        ) -> Proxy[T]:
            """Make a proxy without importing, fetching or calling anything."""

    else:
        __new__ = create
        __init__ = initialize  # for those of subclasses to call

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        users = "__init__" in own and "__daskref_base__" not in own
        if users and cls.__new__ is create:
            cls.__new__ = blank  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__daskref_target__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # `Proxy[int](factory)` tries to set this, and ignores the AttributeError.
        if name == "__orig_class__":
            raise AttributeError(name)
        if name in self.__daskref_own__:
            object.__setattr__(self, name, value)
        else:
            setattr(self.__daskref_target__, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__daskref_own__:
            object.__delattr__(self, name)
        else:
            delattr(self.__daskref_target__, name)

    def __sizeof__(self) -> int:
        """Return an estimate of the proxy's size, with its target if resolved."""
        own = object.__sizeof__(self) + 512
        if not has_target(self):
            return own + getattr(self.__daskref_factory__, "private_nbytes", 0)
        metadata = self.__daskref_metadata__
        if metadata is not None:
            return own + metadata.nbytes
        return own + sys.getsizeof(self.__daskref_target__)

    def __reduce__(self) -> tuple[Any, ...]:
        return _maker(self), (self.__daskref_factory__,)

    def __copy__(self) -> Any:
        if has_target(self):
            return copy.copy(self.__daskref_target__)
        return _maker(self)(self.__daskref_factory__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if has_target(self):
            return copy.deepcopy(self.__daskref_target__, memo)
        return _maker(self)(self.__daskref_factory__)

    def __dask_tokenize__(self) -> Any:
        """Return a token of the value that a receiver of the proxy will see.

        Equal before and after the proxy was resolved, whatever was changed in place.
        """
        metadata = self.__daskref_metadata__
        if metadata is not None and metadata.token is not None:
            return "daskref.Proxy", metadata.token
        factory = get_factory(self)
        method = getattr(factory, "__dask_tokenize__", None)
        if method is not None:
            return "daskref.Proxy", method()
        try:
            return "daskref.Proxy", cloudpickle.dumps(factory)
        except Exception:
            return "daskref.Proxy", uuid.uuid4().hex


# Else p.__slots__ would find it before the target's.
type.__delattr__(Proxy, "__slots__")

#: For annotations: a value, or a proxy of one.
ProxyOr: TypeAlias = Proxy[T] | T


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


def _maker(proxy: Proxy[Any]) -> Any:
    """Return ``factory -> proxy``, for another proxy of the same class."""
    base = base_of(type(proxy))
    return partial(create, base) if base.__new__ is blank else base


def _check(obj: object, function: str) -> None:
    if type(obj) is ProxyLocker:
        raise ResolveError(repr(obj), "its unlock() returns the proxy itself")
    if not is_proxy(obj):
        raise TypeError(f"{function}() takes a Proxy, not {type(obj).__name__}")


def is_resolved(proxy: Proxy[Any]) -> bool:
    """Return whether a proxy has its target. Does no I/O; once True it stays True.

    Raises
    ------
    TypeError
        If it is not a proxy.
    """
    _check(proxy, "is_resolved")
    return has_target(proxy)


def resolve(proxy: Proxy[Any]) -> None:
    """Fetch the target of a proxy now, unless the proxy has it.

    May be slow; safe to call from several threads.

    Raises
    ------
    TypeError
        If it is not a proxy.
    ResolveError
        If the target cannot be had.
    """
    extract(proxy)


def reference_of(proxy: Any) -> Reference:
    """Return the reference of a proxy that a store made.

    Raises TypeError if it is not a proxy, NotStoredError if no store made it.
    """
    factory = get_factory(proxy)
    reference = getattr(factory, "reference", None)
    if not isinstance(reference, Reference):
        raise NotStoredError("this", type(factory).__name__)
    return reference


def extract(proxy: Proxy[T]) -> T:
    """Return the target itself, fetched if need be.

    Returns
    -------
    object
        The very target that the proxy forwards to, no copy: the same at every call.

    Raises
    ------
    TypeError
        If it is not a proxy.
    ResolveError
        If the target cannot be had.

    Examples
    --------
    >>> p = Proxy(lambda: {"a": 1})
    >>> type(extract(p)), extract(p) is extract(p)
    (<class 'dict'>, True)
    """
    _check(proxy, "extract")
    target: T = proxy.__daskref_target__
    return target


def get_factory(proxy: Proxy[T]) -> Callable[[], T]:
    """Return the factory that a proxy was made with; does not resolve the proxy.

    Raises
    ------
    TypeError
        If it is not a proxy.
    """
    _check(proxy, "get_factory")
    factory = proxy.__daskref_factory__
    return factory.factory if type(factory) is Described else factory
