"""Functions that tests submit, and what those tell."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.common import large


def describe(*args: Any, **kwargs: Any) -> list[Any]:
    """Tell what a task sees of its arguments."""
    values = [*args, *kwargs.values()]
    return [
        (type(x).__name__, float(np.asarray(x).sum()), bool(x.flags.writeable))
        for x in values
    ]


#: What :func:`describe` tells of :func:`make`'s array.
SEEN = ("ndarray", 262144.0, True)


def make(fill: float = 1.0) -> Any:
    """Return an array that goes by reference."""
    return large(fill)


def total(x: Any, *ignored: Any) -> float:
    """Return the sum of all that is in an array."""
    return float(np.asarray(x).sum())
