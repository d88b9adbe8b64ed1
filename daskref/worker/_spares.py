"""Objects that tasks have left unchanged, for the next task.

To load most objects costs nothing: their memory is mapped. Loading some copies memory,
such as the trees of scikit-learn's forests, and each task would pay for that. Plain
Dask loads such an object once per worker, and its tasks share it. Here a task has the
object to itself; after the task, the next one gets it if the object is provably
unchanged.

Provably: its pickle has the same hash; it has the same parts; and the reference counts
of the parts, and of the memory below arrays, are those from before. A write, or a kept
part, leaves the object to the task.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from daskref.objects.codec import encode
from daskref.objects.pickling import changeable, pickled
from daskref.store.metrics import seconds_in_connectors

#: Seconds of loading from which on it is worth the look.
SLOW = 0.01
#: Objects of more parts take longer to look at than to load.
MOST_PARTS = 10_000
#: Packages whose memory can be shared without Python's knowing.
_HIDES = frozenset({"torch", "cupy", "jax"})


@dataclass(eq=False, repr=False)
class Spare:
    """An object that was just loaded, and its fingerprint."""

    #: No other code may hold it.
    obj: Any
    _token: str = ""
    _total: int = 0
    #: Parts that stay the same objects, and the memory below arrays among them.
    _parts: list[Any] = field(default_factory=list)
    _below: list[Any] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)

    def note(self) -> bool:
        """Take the fingerprint; return False if that is not possible."""
        try:
            self._look()
            self._token = encode(self.obj).token
        except Exception:  # whatever the user's own methods raise
            return False
        # only now, when nothing of the above holds a part any more
        self._counts = self._count()
        return bool(self._parts)

    def _look(self) -> None:
        """Find the parts that are the same objects in each pickle."""
        first, second = pickled(self.obj), pickled(self.obj)
        parts = first.parts()
        self._total = len(parts)
        if self._total > MOST_PARTS:
            return
        stay = [part for number, part in second.parts().items() if number in parts]
        packages = {str(type(part).__module__).partition(".")[0] for part in stay}
        if packages & _HIDES:
            return
        self._parts = [*changeable(stay).values()]
        for part in self._parts:
            below = getattr(part, "base", None) if _is_array(part) else None
            while below is not None:
                self._below.append(below)
                below = getattr(below, "base", None) if _is_array(below) else None

    def _count(self) -> list[int]:
        return [sys.getrefcount(part) for part in (*self._parts, *self._below)]

    def is_untouched(self) -> bool:
        """Tell whether the object is unchanged, and no other code holds a part."""
        try:
            if self._count() != self._counts:
                return False
            parts = pickled(self.obj).parts()
            same = len(parts) == self._total and all(
                id(part) in parts for part in self._parts
            )
            return same and encode(self.obj).token == self._token
        except Exception:
            return False


def _is_array(obj: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(obj) is numpy.ndarray


@dataclass(eq=False, repr=False)
class Spares:
    """The unused objects of one worker, by Dask key.

    :meth:`take` and :meth:`give_back` are for task threads, :meth:`forget` for the
    event loop.
    """

    #: ``(key) -> bool``: whether the worker has the key; asked on the event loop.
    _is_here: Callable[[Any], bool]
    #: ``(callable, *args) -> None``: run it on the event loop. Thread-safe.
    _call_soon: Callable[..., Any]
    _spares: dict[Any, list[Spare]] = field(default_factory=dict)
    #: Keys whose objects are not worth it.
    _hopeless: set[Any] = field(default_factory=set)

    def take(self, key: Any, load: Callable[[], Any]) -> Spare:
        """Return a key's object; *load* a new private one if there is none to spare."""
        spares = self._spares.get(key)
        if spares:
            try:
                return spares.pop()
            except IndexError:  # another thread was faster
                pass
        # To fetch it from another host may take long; the next one finds it here.
        begin = time.perf_counter() - seconds_in_connectors()
        spare = Spare(load())
        loading = time.perf_counter() - seconds_in_connectors() - begin
        if loading < SLOW or not spare.note():
            self._hopeless.add(key)
        return spare

    def give_back(self, key: Any, spare: Spare) -> None:
        """Keep an object for the next task, if this task left it unchanged."""
        if key in self._hopeless:
            return
        if spare.is_untouched():
            self._call_soon(self._keep, key, spare)
        else:  # nor will the next one, in all likelihood
            self._hopeless.add(key)

    def _keep(self, key: Any, spare: Spare) -> None:
        if self._is_here(key):
            self._spares.setdefault(key, []).append(spare)

    def forget(self, key: Any) -> None:
        """Drop the objects of a key that the worker does not have any more."""
        self._spares.pop(key, None)
        self._hopeless.discard(key)
