"""Functions that travel pickled, and are loaded by the process that first calls them.

A user's serializer travels with the configuration of its store, a deserializer with a
proxy, also through a scheduler that cannot import them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle

from daskref.exceptions import WireError

#: ``(bytes) -> object``
Load = Callable[[Any], Any]
#: ``(object) -> bytes``
Dump = Callable[[Any], Any]


class PickledFunction:
    """A function, loaded or pickled.

    Two are equal if they are the same function or the same bytes.

    Parameters
    ----------
    function
        The function, which this process calls as it is; other processes get a copy.
    data
        The pickled function, instead.
    """

    __slots__ = ("_data", "_function")

    def __init__(
        self, function: Callable[[Any], Any] | None = None, data: bytes | None = None
    ) -> None:
        self._function = function
        self._data = data

    @property
    def data(self) -> bytes:
        """The function pickled; raises what pickling raises."""
        if self._data is None:
            self._data = cloudpickle.dumps(self._function)
        return self._data

    def __call__(self, argument: Any) -> Any:
        """Call the function."""
        if self._function is None:
            self._function = cloudpickle.loads(self.data)
        return self._function(argument)

    def __repr__(self) -> str:
        return f"<PickledFunction {self._function or 'function, not loaded'}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PickledFunction):
            return NotImplemented
        if self._function is not None and self._function is other._function:
            return True
        return self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)

    def __reduce__(self) -> tuple[Any, ...]:
        return PickledFunction, (None, self.data)


def pickled_function(function: Callable[[Any], Any] | None) -> PickledFunction | None:
    """Return a function as a :class:`PickledFunction`; ``None`` stays."""
    if function is None or isinstance(function, PickledFunction):
        return function
    return PickledFunction(function)


def load_with(deserializer: Load, data: Any, what: str) -> Any:
    """Return what a user's deserializer makes of bytes.

    Raises WireError, which names *what*, if the deserializer raises.
    """
    try:
        # As ProxyStore's connectors have it: a mapping has neither `decode` nor hash.
        return deserializer(data if isinstance(data, bytes) else bytes(data))
    except Exception as exc:
        raise WireError(f"{what} could not be deserialized ({exc!r})") from exc
