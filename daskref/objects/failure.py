"""What is stored in place of an object whose making failed."""

from __future__ import annotations

import traceback
from typing import Any

import cloudpickle

#: An exception follows.
_MAGIC = b"\x89daskref-failed\n"


class Failure:
    """An exception in the place of an object.

    Parameters
    ----------
    exception
        To be raised by whoever wants the object.
    """

    __slots__ = ("exception",)

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception


def outcome(obj: Any) -> Any:
    """Return an object; raise its exception if it is a failure."""
    if type(obj) is Failure:
        raise obj.exception.with_traceback(None)
    return obj


def dump_failure(exception: BaseException) -> bytes:
    """Return what to store in place of an object whose making failed.

    Parameters
    ----------
    exception
        If it does not pickle, its text is kept. Its traceback is kept as text.
    """
    lines = traceback.format_exception(exception) if exception.__traceback__ else []
    try:
        data = cloudpickle.dumps((exception, "".join(lines)))
        cloudpickle.loads(data)
    except Exception:
        text = "".join(traceback.format_exception_only(exception)).strip()
        data = cloudpickle.dumps((RuntimeError(text), "".join(lines)))
    return b"".join([_MAGIC, data])


def load_failure(data: memoryview) -> Failure | None:
    """Return the failure that was stored; ``None`` if it is another object.

    Parameters
    ----------
    data
        What the connector returned.
    """
    if data[: len(_MAGIC)] != _MAGIC:
        return None
    exception, text = cloudpickle.loads(data[len(_MAGIC) :])
    if text:
        exception.add_note(f"It was set on a future by:\n{text}")
    return Failure(exception)
