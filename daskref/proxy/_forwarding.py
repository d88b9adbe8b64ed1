"""Proxy classes that have exactly the special methods of their targets.

Python looks special methods up on the type, never on the instance, so a proxy is as
transparent as its class: ``callable(p)``, ``iter(p)`` or ``hasattr(p, "__len__")`` tell
the truth only if the class has the method exactly when the target's class does. There
is one class per set of methods, kept once built: about as many as kinds of target.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from abc import ABCMeta
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

#: ``(proxy, *args) -> result``, for one special method.
Forwarder = Callable[..., Any]


class NoIterator:
    """Base, for ``isinstance``, of a class that has ``__next__`` and is no iterator."""

    __next__ = None


class ProxyType(type):
    """Metaclass of proxies.

    A class's own dictionary may hold a descriptor, :class:`Told`, as ``__module__``.
    ``type.__module__`` would return the descriptor itself. This class has a
    ``__module__`` of its own, so Python looks up that of a proxy class like any other
    attribute.
    """

    #: Proxies of this very class of which nothing is known, once there was one.
    __daskref_unknown__: type | None

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> None:
        super().__init__(name, bases, body)
        cls.__daskref_unknown__ = None

    @property
    def __mro__(cls) -> tuple[type, ...]:
        """The bases, as ``isinstance(p, Iterator)`` reads them.

        A proxy without metadata has ``__next__``, but must not be an ``Iterator``: Dask
        consumes iterators.
        """
        mro: tuple[type, ...] = _bases(cls)
        unforeseen = cls.__dict__.get("__daskref_foreseen__") is False
        return (NoIterator, *mro) if unforeseen else mro

    def __repr__(cls) -> str:
        return f"<class '{cls.__module__}.{cls.__qualname__}'>"


_bases: Any = vars(type)["__mro__"].__get__


class Told:
    """Attribute that the class has by itself and a proxy gets from its target.

    Parameters
    ----------
    own
        The class's value.
    resolved
        Whether proxies of this class have a target. Others answer with *own*.
    """

    def __init__(self, name: str, own: Any, resolved: bool) -> None:
        self.name = name
        self.own = own
        self.resolved = resolved

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        """Return the class's value or the target's."""
        if obj is None or not self.resolved:
            return self.own
        return getattr(obj.__daskref_target__, self.name)


def bare(obj: Any) -> Any:
    """Return the target of a proxy; any other object itself."""
    return obj.__daskref_target__ if type(type(obj)) is ProxyType else obj


def bare_deep(obj: Any) -> Any:
    """Return the object with the proxies in it, or in nested lists, replaced."""
    if type(obj) in (list, tuple):
        return type(obj)(bare_deep(o) for o in obj)
    if type(obj) is dict:
        return {k: bare_deep(v) for k, v in obj.items()}
    return bare(obj)


def _binary(op: Callable[[Any, Any], Any]) -> Forwarder:
    return lambda self, other: op(self.__daskref_target__, bare(other))


def _reflected(op: Callable[[Any, Any], Any]) -> Forwarder:
    return lambda self, other: op(bare(other), self.__daskref_target__)


def _unary(op: Callable[[Any], Any]) -> Forwarder:
    return lambda self: op(self.__daskref_target__)


def _inplace(op: Callable[[Any, Any], Any]) -> Forwarder:
    def forward(self: Any, other: Any) -> Any:
        target = self.__daskref_target__
        result = op(target, bare(other))
        return self if result is target else result

    return forward


def _method(name: str) -> Forwarder:
    return lambda self, *args: getattr(self.__daskref_target__, name)(*args)


def _power(self: Any, other: Any, modulo: Any = None) -> Any:
    return pow(self.__daskref_target__, bare(other), bare(modulo))


def _array_ufunc(self: Any, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(ufunc, method)(*map(bare, args), **bare_deep(kwargs))


def _array_function(self: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
    return func(*bare_deep(args), **bare_deep(kwargs))


def _array(self: Any, dtype: Any = None, **kwargs: Any) -> Any:
    target = self.__daskref_target__
    method = getattr(target, "__array__", None)
    if method is None:  # a builtin type; only NumPy asks this way
        return sys.modules["numpy"].asarray(target, dtype)
    return method(dtype, **kwargs)


def _buffer(self: Any, flags: int) -> Any:
    target = self.__daskref_target__
    method = getattr(target, "__buffer__", None)
    if method is None:  # nothing was known, so it was worth a try
        kind = type(target).__name__
        raise TypeError(f"a bytes-like object is required, not {kind!r}")
    return method(flags)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "matmul": operator.matmul,
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "divmod": divmod,
    "pow": operator.pow,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
    "and": operator.and_,
    "xor": operator.xor,
    "or": operator.or_,
}

_AS_METHODS = ("enter", "exit", "aenter", "aexit", "await", "get", "set", "delete")
#: Special methods that a target may have or lack.
FORWARDERS: dict[str, Forwarder] = {
    **{f"__{name}__": _binary(op) for name, op in _BINARY.items()},
    **{f"__r{name}__": _reflected(op) for name, op in _BINARY.items()},
    **{
        f"__i{name}__": _inplace(getattr(operator, f"i{name}"))
        for name in _BINARY
        if name != "divmod"
    },
    "__pow__": _power,
    "__neg__": _unary(operator.neg),
    "__pos__": _unary(operator.pos),
    "__abs__": _unary(abs),
    "__invert__": _unary(operator.invert),
    "__int__": _unary(int),
    "__float__": _unary(float),
    "__complex__": _unary(complex),
    "__index__": _unary(operator.index),
    "__bool__": _unary(bool),
    "__round__": lambda self, *args: round(self.__daskref_target__, *args),
    "__trunc__": _unary(math.trunc),
    "__floor__": _unary(math.floor),
    "__ceil__": _unary(math.ceil),
    "__fspath__": _unary(os.fspath),
    "__len__": _unary(len),
    "__length_hint__": _unary(operator.length_hint),
    "__contains__": lambda self, item: bare(item) in self.__daskref_target__,
    "__getitem__": lambda self, key: self.__daskref_target__[key],
    "__setitem__": lambda self, key, v: operator.setitem(
        self.__daskref_target__, key, v
    ),
    "__delitem__": lambda self, key: operator.delitem(self.__daskref_target__, key),
    "__iter__": _unary(iter),
    "__next__": _unary(next),
    "__reversed__": _unary(reversed),
    "__call__": lambda self, /, *args, **kwargs: self.__daskref_target__(
        *args, **kwargs
    ),
    **{f"__{name}__": _method(f"__{name}__") for name in _AS_METHODS},
    "__aiter__": _unary(aiter),
    "__anext__": _unary(anext),
    "__instancecheck__": lambda self, obj: isinstance(obj, self.__daskref_target__),
    "__subclasscheck__": lambda self, cls: issubclass(cls, self.__daskref_target__),
    "__buffer__": _buffer,
    "__array__": _array,
    "__array_ufunc__": _array_ufunc,
    "__array_function__": _array_function,
}

#: What every object has.
COMMON: dict[str, Forwarder] = {
    "__lt__": _binary(operator.lt),
    "__le__": _binary(operator.le),
    "__eq__": _binary(operator.eq),
    "__ne__": _binary(operator.ne),
    "__gt__": _binary(operator.gt),
    "__ge__": _binary(operator.ge),
    "__hash__": _unary(hash),
    "__str__": _unary(str),
    "__repr__": _unary(repr),
    "__format__": lambda self, spec: format(self.__daskref_target__, spec),
    "__dir__": _unary(dir),
    # Not every object has it. But without it bytes() would take a buffer for an
    # iterable of integers, silently: before Python 3.12 no class can offer a buffer.
    "__bytes__": _unary(bytes),
}


class SequencePattern(metaclass=ABCMeta):  # noqa: B024, only registered to
    """Classes that register here match sequence patterns; ``isinstance`` is unchanged.

    A class may carry the flag that ``match`` looks for without being a
    ``collections.abc.Sequence``, as arrays of NumPy do from 2.5 on.
    """

    __abc_tpflags__ = 1 << 5  # Py_TPFLAGS_SEQUENCE


class MappingPattern(metaclass=ABCMeta):  # noqa: B024
    """Classes that register here match mapping patterns."""

    __abc_tpflags__ = 1 << 6  # Py_TPFLAGS_MAPPING


class Interface(NamedTuple):
    """The properties of a target's type that a class of proxies is built from."""

    #: Names out of :data:`FORWARDERS`.
    names: frozenset[str]
    #: Names to set to None: Python would make up these methods otherwise.
    nulls: frozenset[str]
    #: Whether Dask looks into instances, for tasks and keys, or pickles their code.
    walked: bool
    #: Where to register the class, for ``match``.
    pattern: type[SequencePattern | MappingPattern] | None = None


# Python awaits what has __await__, and calls __get__ of any class attribute with one.
_ONLY_IF_KNOWN = {"__anext__", "__array__", "__await__"}
_ONLY_IF_KNOWN |= {"__delete__", "__get__", "__set__"}

#: For a target of which nothing is known.
GENERIC = Interface(frozenset(FORWARDERS) - _ONLY_IF_KNOWN, frozenset(), walked=True)

_WALKED: tuple[type, ...] = (list, tuple, set, frozenset, dict)
_WALKED += (FunctionType, type, ModuleType)
#: Types that NumPy knows by their type, and would take a proxy of for a sequence or an
#: opaque object. Not lists: pandas makes less of an array than of a list.
_KNOWN_TO_NUMPY: tuple[type, ...] = (int, float, complex, str, bytes, dict)
#: Methods that a type lacks although functions of Python accept its instances.
_KNOWN_TO_PYTHON: dict[type, set[str]] = {
    str: {"__int__", "__float__", "__complex__", "__fspath__"},
    bytes: {"__int__", "__float__", "__fspath__"},
    bytearray: {"__int__", "__float__"},
}


_PATTERNS = 1 << 5 | 1 << 6


def defines(cls: type, name: str) -> bool:
    """Return whether a class or a base of it has the name, and not as None."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name] is not None
    return False


@lru_cache(maxsize=512)
def _interface(cls: type) -> Interface:
    names = {name for name in FORWARDERS if defines(cls, name)}
    for name in _BINARY:
        # `[1] + p` asks type(p) for __radd__, which list itself does not need.
        if names & {f"__{name}__", f"__r{name}__"}:
            names |= {f"__{name}__", f"__r{name}__"}
    for known, added in _KNOWN_TO_PYTHON.items():
        if issubclass(cls, known):
            names |= added
    if issubclass(cls, _KNOWN_TO_NUMPY):
        names |= {"__array__", "__array_function__", "__array_ufunc__"}
    nulls = set()
    if not defines(cls, "__hash__"):
        nulls.add("__hash__")
    # With __getitem__ a class of Python's iterates; one of C's need not (a scalar of
    # NumPy's, a match of re's), and without a length it does not.
    indexes = "__getitem__" in names and not names & {"__iter__", "__len__"}
    if indexes and not isinstance(getattr(cls, "__getitem__", None), FunctionType):
        nulls.add("__iter__")
    return Interface(
        frozenset(names), frozenset(nulls), issubclass(cls, _WALKED), _pattern(cls)
    )


def _pattern(cls: type) -> type[SequencePattern | MappingPattern] | None:
    for pattern in (SequencePattern, MappingPattern):
        if cls.__flags__ & pattern.__flags__ & _PATTERNS:
            return pattern
    return None


def interface_of(cls: type) -> Interface:
    """Return the interface of proxies of a class's instances."""
    try:
        return _interface(cls)
    except TypeError:  # the class itself does not hash
        return _interface.__wrapped__(cls)


def forwarders(interface: Interface) -> dict[str, Any]:
    """Return the special methods for the body of a class."""
    body: dict[str, Any] = {name: FORWARDERS[name] for name in interface.names}
    return body | dict.fromkeys(interface.nulls)
