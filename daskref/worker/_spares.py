"""Objects that tasks have given back as they got them, for the next task.

Most objects cost nothing to load: their memory is mapped. Some copy it, such as the
trees of scikit-learn's forests, and so would each task that gets one. Plain Dask loads
such an object once per worker, and its tasks share it. Here a task has the object to
itself; when it has ended, and the object is provably what it was, the next one gets it.

Provably: what it pickles to has the same hash; it has the same parts, and nobody holds
more of them, nor of the memory that arrays lie in, than before. A write, or a part that
somebody kept, ends it: that object is the task's own then.
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
    """One object that was just loaded, and what it looked like."""

    #: The object; nobody else may hold it.
    obj: Any
    _token: str = ""
    _total: int = 0
    #: Its parts that stay the same objects, and the memory below arrays among them.
    _parts: list[Any] = field(default_factory=list)
    _below: list[Any] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)

    def note(self) -> bool:
        """Take down what it looks like; return False if that is not possible."""
        try:
            self._look()
            self._token = encode(self.obj).token
        except Exception:  # whatever the user's own methods raise
            return False
        # only now, when nothing of the above holds a part any more
        self._counts = self._count()
        return bool(self._parts)

    def _look(self) -> None:
        """Find the parts that are the same objects each time it is pickled."""
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
        """Tell whether the object is what it was, and nobody holds a part of it."""
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
    """What one worker has to spare, by Dask key.

    Notes
    -----
    :meth:`take` and :meth:`give_back` are for the threads of tasks, :meth:`forget` for
    the event loop.
    """

    #: ``(key) -> bool``: whether the worker has the key; asked on the event loop.
    _is_here: Callable[[Any], bool]
    #: ``(callable, *args) -> None``: run it on the event loop. Thread-safe.
    _call_soon: Callable[..., Any]
    _spares: dict[Any, list[Spare]] = field(default_factory=dict)
    #: Keys whose objects are not worth it.
    _hopeless: set[Any] = field(default_factory=set)

    def take(self, key: Any, load: Callable[[], Any]) -> Spare:
        """Return an object of a key, loaded if there is none to spare.

        *load*: returns a new private object.
        """
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
        """Keep an object for the next task, if this one has left it as it was."""
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
        """Drop what there is of a key that the worker has no more."""
        self._spares.pop(key, None)
        self._hopeless.discard(key)
