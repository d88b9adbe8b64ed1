"""Picklers of tasks: they find large values, and leave out the values stored apart.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

======================================  ============================================
name                                    what for
======================================  ============================================
``_task_spec.TaskRef``                  futures among arguments
``_task_spec.Task``                     calls, with the objects that they name
======================================  ============================================
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from types import FunctionType, MethodType
from typing import Any, NamedTuple, Protocol

import xxhash
from dask._task_spec import Task, TaskRef

from daskref.exceptions import OwnershipError
from daskref.graph.lazy import Lazy
from daskref.graph.literals import (
    FEW,
    SCALARS,
    exact_nbytes,
    is_plain_function,
    taken_along,
)
from daskref.objects.codec import Encoded, encode
from daskref.objects.pickling import ByValuePickler

_CONTAINERS = frozenset({list, tuple, set, frozenset, dict})
#: Objects of one task that are looked into on their own, to see if they are large.
_TRIES = 64


class FoundLargeError(Exception):
    """Ends a scan."""


class Scan(NamedTuple):
    """A pickle, and the buffers beside it."""

    data: bytes
    buffers: list[pickle.PickleBuffer]

    @property
    def nbytes(self) -> int:
        """Size of it all."""
        return len(self.data) + sum(buffer.raw().nbytes for buffer in self.buffers)


class _File(io.BytesIO):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def write(self, piece: Any) -> int:
        if self.tell() + memoryview(piece).nbytes > self.most:
            raise FoundLargeError
        return super().write(piece)


class _Scanner(ByValuePickler):
    def __init__(self, file: Any, feed: Any, threshold: int, by_key: bool) -> None:
        super().__init__(file, feed)
        self.threshold = threshold
        self.by_key = by_key

    def persistent_id(self, obj: Any) -> Any:
        nbytes = exact_nbytes(obj)
        if (nbytes is not None and nbytes > self.threshold) or type(obj) is Lazy:
            raise FoundLargeError
        if self.by_key and issubclass(type(obj), TaskRef):
            return obj.key, TaskRef.__name__
        return None


def scan(obj: Any, threshold: int, for_hash: bool = False) -> Scan:
    """Pickle an object; raise FoundLargeError at the first large value in it.

    A value is large if its type determines its size, above *threshold* bytes.
    *for_hash*: raise if the whole pickle is larger, too; it has no buffers beside it,
    and futures in it count by their keys. Raises whatever pickling raises.
    """
    file = _File(threshold if for_hash else sys.maxsize)
    buffers: list[pickle.PickleBuffer] = []
    feed = None if for_hash else buffers.append
    _Scanner(file, feed, threshold, for_hash).dump(obj)
    return Scan(file.getvalue(), buffers)


class Looked:
    """What one call to the client has found out about an object."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj  # or its id would be another's
        #: Its bytes without the parts stored apart; its parts, by ``id``.
        self.own: tuple[int, dict[int, Any]] | None = None
        self._encoded: Encoded | None = None
        self._identities: set[int] | None = None

    @property
    def encoded(self) -> Encoded:
        if self._encoded is None:
            self._encoded = encode(self.obj)
        return self._encoded

    @property
    def nbytes(self) -> int:
        """The largest size known by now; 0 if none is."""
        own = 0 if self.own is None else self.own[0]
        return own if self._encoded is None else max(own, self._encoded.nbytes)

    @property
    def identities(self) -> set[int]:
        """The ``id`` of each object in it."""
        if self._identities is None:
            if exact_nbytes(self.obj) is not None or self.encoded.pickle is None:
                self._identities = {id(self.obj)}
            else:
                self._identities = self.encoded.pickle.identities()
        return self._identities


def value_of(obj: Any) -> Any:
    return obj.value if type(obj) is Lazy else obj


def named_in(obj: Any) -> dict[int, Any]:
    """Return the long lists, dicts and the like that a user has named, by ``id``.

    *obj*: a task, or a tuple of the parts of a call.
    """
    found: dict[int, Any] = {}
    seen: dict[int, Any] = {}
    todo: list[Any] = [obj]
    while todo:
        value = todo.pop()
        cls = type(value)
        if id(value) in seen or cls in SCALARS:
            continue
        seen[id(value)] = value
        if issubclass(cls, Task):
            todo += (value.func, *value.args, *value.kwargs.values())
        elif cls is FunctionType and not is_plain_function(value):
            todo += taken_along(value)
        elif cls is MethodType:
            todo.append(value.__self__)
        elif cls is functools.partial:
            todo += (value.func, *value.args, *value.keywords.values())
        elif cls in _CONTAINERS:
            if value is not obj and len(value) > FEW:
                found[id(value)] = value
            else:
                todo += value.values() if cls is dict else value
    return found


class _Counter:
    """A file that keeps nothing but the number of bytes."""

    def __init__(self) -> None:
        self.nbytes = 0

    def write(self, piece: Any) -> None:
        self.nbytes += memoryview(piece).nbytes

    def feed(self, buffer: Any) -> None:
        self.nbytes += buffer.raw().nbytes


class Divider(Protocol):
    """Decides which values of a task are stored apart."""

    #: Size in bytes above which a value is.
    threshold: int

    def look(self, obj: Any) -> Looked:
        """Return what is known of an object."""

    def goes_apart(self, obj: Any, pickler: TaskPickler) -> bool:
        """Tell whether an object that a task's pickler meets is stored apart."""


class TaskPickler(ByValuePickler):
    """Pickles a task with numbers in the places of values stored apart."""

    #: Values stored apart, by number.
    apart: list[Any]
    #: Objects that are not looked into, by ``id``.
    tried: dict[int, Any]
    _numbers: dict[int, int]

    def __init__(
        self,
        file: Any,
        feed: Any,
        divider: Divider,
        inline: set[int],
        *,
        named: dict[int, Any] | None = None,
        by_key: bool = False,
        tries: int = _TRIES,
    ) -> None:
        super().__init__(file, feed)
        self.divider = divider
        #: ``id`` of objects that are not stored apart.
        self.inline = inline
        #: Lists and the like that may be stored apart, by ``id``.
        self.named = named or {}
        #: Whether futures count by their keys, in a pickle that is hashed only.
        self.by_key = by_key
        self.apart, self.tried, self._numbers = [], {}, {}
        self._tries = tries

    def persistent_id(self, obj: Any) -> Any:
        cls = type(obj)
        if cls in SCALARS or cls is int:
            return None
        number = self._numbers.get(id(obj))
        if number is not None:
            return number
        if self.by_key and issubclass(cls, TaskRef):
            return obj.key, TaskRef.__name__
        if id(obj) in self.inline or not self.divider.goes_apart(obj, self):
            return None
        number = self._numbers[id(obj)] = len(self.apart)
        self.apart.append(obj)
        return number

    def may_try(self, obj: Any, counts: bool) -> bool:
        """Tell whether to look into an object, to see if it is large.

        Not into parts of an object that is not. *counts*: whether the number of such
        objects is limited.
        """
        if id(obj) in self.tried:
            return False
        if counts:
            if self._tries <= 0:
                self.tried[id(obj)] = obj
                return False
            self._tries -= 1
        return True


def own_size(
    obj: Any, divider: Divider, inline: set[int], divided: bool
) -> tuple[int, dict[int, Any]]:
    """Return the size of an object, and the objects in it, by ``id``.

    *inline*: ``id`` of objects that are not stored apart. *divided*: whether to leave
    out the values stored apart.
    """
    looked = divider.look(obj)
    if looked.own is None:
        if divided:
            counter = _Counter()
            inner = TaskPickler(counter, counter.feed, divider, inline, tries=0)
            inner.dump(obj)
            looked.own = counter.nbytes, inner.tried
        else:
            encoded = looked.encoded
            small = encoded.pickle and encoded.nbytes <= divider.threshold
            parts = encoded.pickle.parts() if encoded.pickle and small else {}
            looked.own = encoded.nbytes, parts
    return looked.own


def hashed(obj: Any, divider: Divider) -> tuple[str, bool] | None:
    """Return a hash of an object, and whether it contains something large.

    ``None`` if it does not pickle. Futures in it count by their keys.
    """
    try:  # a small call is pickled once
        small = scan(obj, divider.threshold, for_hash=True)
        return xxhash.xxh3_128_hexdigest(small.data), False
    except FoundLargeError:
        pass
    except OwnershipError:
        raise
    except Exception:
        return None
    file = io.BytesIO()
    named = named_in(obj)
    pickler = TaskPickler(file, None, divider, set(), named=named, by_key=True)
    try:
        pickler.dump(obj)
        apart = map(value_of, pickler.apart)
        tokens = [divider.look(each).encoded.token for each in apart]
    except OwnershipError:
        raise
    except Exception:
        return None
    digest = xxhash.xxh3_128(file.getbuffer())
    for token in tokens:
        digest.update(token.encode())
    return digest.hexdigest(), bool(tokens) or file.tell() > divider.threshold
