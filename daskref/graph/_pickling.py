"""Picklers of tasks: they find what is large, and leave out what is stored apart.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

======================================  ============================================
name                                    what for
======================================  ============================================
``_task_spec.TaskRef``                  futures among arguments
``_task_spec.Task``                     calls, with what a user names in them
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
#: How many objects of one task are looked into on their own, to see if they are large.
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
    most: int

    def write(self, piece: Any) -> int:
        if self.tell() + memoryview(piece).nbytes > self.most:
            raise FoundLargeError
        return super().write(piece)


class _Scanner(ByValuePickler):
    threshold: int
    by_key: bool

    def persistent_id(self, obj: Any) -> Any:
        nbytes = exact_nbytes(obj)
        if (nbytes is not None and nbytes > self.threshold) or type(obj) is Lazy:
            raise FoundLargeError
        if self.by_key and issubclass(type(obj), TaskRef):
            return obj.key, TaskRef.__name__
        return None


def scan(obj: Any, threshold: int, for_hash: bool = False) -> Scan:
    """Pickle an object, up to the first large value in it.

    Parameters
    ----------
    obj
        The object.
    threshold
        Bytes that no value in it may have whose type says how large it is.
    for_hash
        Whether all together may have no more, and the pickle is to be hashed only: it
        has no buffers beside it, and futures in it count by their keys.

    Raises
    ------
    FoundLargeError
        If there is more.
    Exception
        Whatever pickling the object raises.
    """
    file = _File()
    file.most = threshold if for_hash else sys.maxsize
    buffers: list[pickle.PickleBuffer] = []
    scanner = _Scanner(file, None if for_hash else buffers.append)
    scanner.threshold = threshold
    scanner.by_key = for_hash
    scanner.dump(obj)
    return Scan(file.getvalue(), buffers)


class Looked:
    """What is known of one object, for as long as one call to the client lasts."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj  # or its id would be another's
        #: Bytes of its own, what is stored apart of it left out; its parts, by ``id``
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
        """What is known of its size by now; 0 if that is nothing."""
        own = 0 if self.own is None else self.own[0]
        return own if self._encoded is None else max(own, self._encoded.nbytes)

    @property
    def identities(self) -> set[int]:
        """The objects that are in it."""
        if self._identities is None:
            if exact_nbytes(self.obj) is not None or self.encoded.pickle is None:
                self._identities = {id(self.obj)}
            else:
                self._identities = self.encoded.pickle.identities()
        return self._identities


def value_of(obj: Any) -> Any:
    return obj.value if type(obj) is Lazy else obj


def named_in(obj: Any) -> dict[int, Any]:
    """Return the long lists, dicts and the like that a user has named in a call.

    Parameters
    ----------
    obj
        A task, or a tuple of what belongs to a call.
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
    """Decides what is stored apart of a task."""

    #: Size in bytes above which a value is.
    threshold: int

    def look(self, obj: Any) -> Looked:
        """Return what is known of an object."""

    def goes_apart(self, obj: Any, pickler: TaskPickler) -> bool:
        """Tell whether an object that a task's pickler meets is stored apart."""


class TaskPickler(ByValuePickler):
    """Pickles a task with numbers in the places of what is stored apart."""

    divider: Divider
    #: What is stored apart, by number.
    apart: list[Any]
    #: ``id`` of what is not.
    inline: set[int]
    #: Lists and the like that may be, by ``id``.
    named: dict[int, Any]
    #: Whether futures count by their keys, in a pickle that is hashed only.
    by_key: bool
    _numbers: dict[int, int]
    #: What is not looked into, by ``id``.
    tried: dict[int, Any]
    _tries: int

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

        Parameters
        ----------
        obj
            Not if it is a part of another that is not.
        counts
            Whether only so many may be looked into.
        """
        if id(obj) in self.tried:
            return False
        if counts:
            if self._tries <= 0:
                self.tried[id(obj)] = obj
                return False
            self._tries -= 1
        return True

    def skip(self, parts: dict[int, Any]) -> None:
        """Look into none of these."""
        self.tried |= parts


def task_pickler(
    file: Any, feed: Any, divider: Divider, inline: set[int], tries: int = _TRIES
) -> TaskPickler:
    pickler = TaskPickler(file, feed)
    pickler.divider = divider
    pickler.apart = []
    pickler.inline = inline
    pickler.named = {}
    pickler.by_key = False
    pickler._numbers = {}
    pickler.tried = {}
    pickler._tries = tries
    return pickler


def own_size(
    obj: Any, divider: Divider, inline: set[int], divided: bool
) -> tuple[int, dict[int, Any]]:
    """Return the size of an object, and what is in it, by ``id``.

    Parameters
    ----------
    obj
        The object.
    inline
        ``id`` of what is not stored apart.
    divided
        Whether to leave out what is stored apart of the object.
    """
    looked = divider.look(obj)
    if looked.own is None:
        if divided:
            counter = _Counter()
            inner = task_pickler(counter, counter.feed, divider, inline, 0)
            inner.dump(obj)
            looked.own = counter.nbytes, inner.tried
        else:
            encoded = looked.encoded
            small = encoded.pickle and encoded.nbytes <= divider.threshold
            parts = encoded.pickle.parts() if encoded.pickle and small else {}
            looked.own = encoded.nbytes, parts
    return looked.own


def hashed(obj: Any, divider: Divider) -> tuple[str, bool] | None:
    """Return a hash of an object, and whether something large is in it.

    ``None`` if it does not pickle. Futures in it count by their keys.
    """
    try:  # what is small is not pickled twice
        small = scan(obj, divider.threshold, for_hash=True)
        return xxhash.xxh3_128_hexdigest(small.data), False
    except FoundLargeError:
        pass
    except OwnershipError:
        raise
    except Exception:
        return None
    file = io.BytesIO()
    pickler = task_pickler(file, None, divider, set())
    pickler.by_key = True
    pickler.named = named_in(obj)
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
