"""Which kinds of value arrive how: the second part of docs/transparency.md."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import cloudpickle
from distributed.protocol import deserialize, serialize

from daskref.objects.codec import decode, encode
from tests.support.values import FEW, KINDS, fingerprint

TEXT = """\
## Which values arrive how

Each kind of value in the tests is sent as each client sends it, and the arrived value
is compared with the original: value, exact type, data type and its metadata, shape,
order, flags, attributes, and which of its parts are one object. A cell says *same* if
nothing differs, and otherwise lists the differences. daskref treats a value alike
wherever it goes by reference, except for arrays with swapped axes: in results they
arrive contiguous, as with Dask. Plain Dask pickles arguments, and has another way for
results and scattered values. daskref and plain Dask may both change one thing: a
non-contiguous value arrives contiguous, and a memmap without its file.
"""

WAYS = ("daskref", "Dask, argument", "Dask, result or scatter")


def _by_daskref(obj: Any) -> Any:
    return decode(bytearray(b"".join(encode(obj).frames)))


def _as_argument(obj: Any) -> Any:
    try:
        data = pickle.dumps(obj, 5)
    except Exception:
        data = cloudpickle.dumps(obj, 5)
    return pickle.loads(data)


def _as_result(obj: Any) -> Any:
    header, frames = serialize(obj, serializers=("dask", "pickle"), on_error="raise")
    frames = [bytearray(frame) for frame in frames]
    return deserialize(header, frames)


_SENT: dict[str, Callable[[Any], Any]] = dict(
    zip(WAYS, (_by_daskref, _as_argument, _as_result), strict=True)
)


def arrivals() -> dict[str, dict[str, str]]:
    """Return what differs, for each kind that is installed: kind -> way -> what."""
    found: dict[str, dict[str, str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about their own types
        for name, kind in sorted(KINDS.items()):
            found[name] = {way: _arrives(kind, send) for way, send in _SENT.items()}
    return found


def _arrives(kind: Any, send: Callable[[Any], Any]) -> str:
    try:
        arrived = fingerprint(send(kind(1, FEW)))
    except Exception as exc:
        return type(exc).__name__
    names = sorted(_differing(fingerprint(kind(1, FEW)), arrived))
    return ", ".join(names) or "same"


def _differing(a: Any, b: Any, name: str = "value") -> set[str]:
    """Return the names of what differs, the innermost ones."""
    if a == b:
        return set()
    if isinstance(a, dict) and isinstance(b, dict):
        if a.get("type") != b.get("type"):
            return {"type"}
        return set().union(
            *(_differing(a.get(each), b.get(each), str(each)) for each in {**a, **b})
        )
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return set().union(*(_differing(x, y, name) for x, y in zip(a, b, strict=True)))
    return {name}


def table(found: dict[str, dict[str, str]]) -> str:
    """Return the table of the page, and the kinds that it leaves out."""
    same = [
        kind for kind, ways in sorted(found.items()) if {*ways.values()} == {"same"}
    ]
    lines = [f"| kind | {' | '.join(WAYS)} |", "| --- " * 4 + "|"]
    lines += [
        f"| {kind} | {' | '.join(ways[way] for way in WAYS)} |"
        for kind, ways in sorted(found.items())
        if kind not in same
    ]
    return "\n".join(
        [*lines, "", f"The same on all ways are {len(same)} kinds: {', '.join(same)}."]
    )
