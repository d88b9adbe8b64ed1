"""A worker's data: references for Dask and daskref, values for user functions.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================  =========================================================
name                        what for
==========================  =========================================================
``Worker.state.data``       the same mapping as ``Worker.data``, where that is a dict
==========================  =========================================================
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from daskref.proxy.proxy import extract
from daskref.store.factory import is_transparent

if TYPE_CHECKING:
    from distributed.worker import Worker

#: ``(key, object) -> object``
Exchange = Callable[[Any, Any], Any]

#: Packages that pass references on; all others want the value.
_PASS_ON = frozenset({"distributed", "daskref"})
#: Packages whose code asks on behalf of its caller.
_BETWEEN = frozenset({"collections", "_collections_abc", "zict"})


def _wants_values() -> bool:
    """Tell whether the calling code is neither Dask's nor daskref's."""
    frame: FrameType | None = sys._getframe(2)
    package = ""
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in _BETWEEN:
            break
        frame = frame.f_back
    return package not in _PASS_ON


def _value(obj: Any) -> Any:
    # The proxy's own target: the same object each time, as with plain Dask.
    return extract(obj) if is_transparent(obj) else obj


class _Items(ItemsView[Any, Any]):
    def __init__(self, data: Any, items: Callable[[], Any]) -> None:
        super().__init__(data)
        self._items = items

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for key, obj in self._items():
            yield key, _value(obj)


class _Values(ValuesView[Any]):
    def __init__(self, data: Any, values: Callable[[], Any]) -> None:
        super().__init__(data)
        self._values = values

    def __iter__(self) -> Iterator[Any]:
        for obj in self._values():
            yield _value(obj)


@cache
def showing(cls: Any) -> Any:
    """Return a subclass of a mapping class that shows values.

    It has one base and no slots, so that instances of *cls*, unless built in, can get
    it as their class.
    """

    class Showing(cls, metaclass=_sent_as(cls)):  # type: ignore[misc,metaclass]
        daskref_exchange: Exchange

        def __setitem__(self, key: Any, obj: Any) -> None:
            super().__setitem__(key, self.daskref_exchange(key, obj))

        def __getitem__(self, key: Any) -> Any:
            obj = super().__getitem__(key)
            return _value(obj) if is_transparent(obj) and _wants_values() else obj

        def get(self, key: Any, default: Any = None) -> Any:
            obj = super().get(key, default)
            return _value(obj) if is_transparent(obj) and _wants_values() else obj

        def items(self) -> Any:
            items = super().items
            return _Items(self, items) if _wants_values() else items()

        def values(self) -> Any:
            values = super().values
            return _Values(self, values) if _wants_values() else values()

        def __iter__(self) -> Iterator[Any]:
            # There, or `dict(data)` would take what lies in a dict past __getitem__.
            return iter(super().__iter__())

    Showing.__name__ = Showing.__qualname__ = cls.__name__
    Showing.__module__ = cls.__module__
    return Showing


def _sent_as(cls: type) -> type:
    """Return a metaclass whose classes pickle as another class."""
    meta = type("_SentAs", (type(cls),), {})
    # a plain client may lack daskref: `cast` returns its argument
    copyreg.pickle(meta, lambda ours: (cast, (None, cls)))
    return meta


def show_values(worker: Worker, exchange: Exchange) -> Callable[[], None]:
    """Show values in a worker's data to all code but Dask's and daskref's.

    A user's mapping that does not allow this stays as it is, with proxies in it.
    *exchange* returns what is kept in the place of an object. Returns the undo
    function.
    """
    data: Any = worker.data
    cls = type(data)
    if cls is dict:
        made = showing(dict)(data)
        made.daskref_exchange = exchange
        _replace(worker, made)
        return lambda: _replace(worker, dict(dict.items(worker.data)))
    try:
        data.daskref_exchange = exchange
        data.__class__ = showing(cls)  # type: ignore[arg-type]
    except (AttributeError, TypeError):
        return lambda: None

    def undo() -> None:
        data.__class__ = cls
        del data.daskref_exchange

    return undo


def _replace(worker: Worker, data: dict[Any, Any]) -> None:
    worker.memory_manager.data = worker.state.data = data
