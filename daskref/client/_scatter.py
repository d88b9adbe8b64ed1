"""What a user scatters: taken apart as Dask does, and put."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from daskref.client._holdings import Holdings, Submission
from daskref.exceptions import NotProxiableError
from daskref.graph.nodes import EncodedNode, ReferenceNode, StoredNode
from daskref.objects.codec import Encoded, encode
from daskref.objects.reference import Reference
from daskref.proxy.proxy import is_proxy

#: Values of a list that is scattered, each below the threshold but together above it,
#: go by reference from this size on, in bytes: a scheduler shall not pile them up.
SHARE_OF_MANY = 16 * 1024

_COLLECTIONS = (list, tuple, set, frozenset)


@dataclass(frozen=True)
class Scattered:
    """Values by key, and the way back to what ``scatter`` returns."""

    #: What the user gave.
    data: Any
    #: A key for each value, in order; equal values share one.
    keys: list[Any]
    #: Key -> value.
    values: dict[Any, Any]
    #: Key -> what each serializes to; those that do not serialize have none.
    encoded: dict[Any, Encoded]

    def rebuild(self, futures: dict[Any, Any]) -> Any:
        """Return futures in the form of the data.

        Parameters
        ----------
        futures
            Key -> future.
        """
        found = [futures[key] for key in self.keys]
        cls = type(self.data)
        if cls is dict:
            return dict(zip(self.keys, found, strict=True))
        if _is_namedtuple(self.data):
            return cls(*found)
        return cls(found) if cls in _COLLECTIONS else found[0]


def take_apart(data: Any, hash: bool) -> Scattered:
    """Give each value of what is scattered a key. Blocks: it serializes and hashes.

    Parameters
    ----------
    data
        Whatever ``Client.scatter`` takes.
    hash
        Whether equal values shall have equal keys.
    """
    if isinstance(data, range | Iterator):
        data = list(data)
    if type(data) is dict:
        return Scattered(data, list(data), data, _encoded(data))
    collection = type(data) in _COLLECTIONS or _is_namedtuple(data)
    values = list(data) if collection else [data]
    encoded = _encoded(dict(enumerate(values)))
    keys = [
        f"{type(value).__name__}-"
        + (encoded[i].token if hash and i in encoded else uuid.uuid4().hex)
        for i, value in enumerate(values)
    ]
    return Scattered(
        data,
        keys,
        dict(zip(keys, values, strict=True)),
        {keys[i]: each for i, each in encoded.items()},
    )


def _encoded(values: dict[Any, Any]) -> dict[Any, Encoded]:
    found = {}
    for key, value in values.items():
        with suppress(NotProxiableError):
            found[key] = encode(value)
    return found


def _is_namedtuple(data: Any) -> bool:
    return isinstance(data, tuple) and hasattr(data, "_fields")


def put_scattered(
    scattered: Scattered, threshold: int, holdings: Holdings, submission: Submission
) -> dict[Any, Reference | None]:
    """Put what goes by reference. Blocks.

    Returns
    -------
    dict
        Key -> reference, for the large values only; ``None`` where the store failed.
    """
    sizes = {key: encoded.nbytes for key, encoded in scattered.encoded.items()}
    small = sum(size for size in sizes.values() if size <= threshold)
    limit = threshold if small <= threshold else min(threshold, SHARE_OF_MANY)
    return {
        key: holdings.put(scattered.values[key], encoded, submission)
        for key, encoded in scattered.encoded.items()
        if sizes[key] > limit and not is_proxy(scattered.values[key])
    }


def divide(
    scattered: Scattered, references: dict[Any, Reference | None], as_they_are: bool
) -> tuple[Scattered, dict[Any, StoredNode], dict[Any, Any]]:
    """Tell what is submitted as a task from what goes to a worker alone. Blocks.

    Parameters
    ----------
    scattered
        What was taken apart.
    references
        Those of the large values, from :func:`put_scattered`.
    as_they_are
        Whether small values are left to Dask.

    Returns
    -------
    tuple
        What was taken apart, with the keys that it goes by; key -> node; key -> value,
        of what the store did not take, or what does not serialize.
    """
    nodes: dict[Any, StoredNode] = {}
    others = {}
    for key, value in scattered.values.items():
        if (reference := references.get(key)) is not None:
            nodes[key] = ReferenceNode(key, reference)
        elif key in references or key not in scattered.encoded or as_they_are:
            others[key] = value
        else:
            nodes[key] = EncodedNode(key, b"".join(scattered.encoded[key].frames))
    if not others or type(scattered.data) is dict:  # where the keys are the user's
        return scattered, nodes, others
    # One key is never both: Dask may not be given the value of a key that is a task.
    renamed = {key: f"{key}-placed" for key in others}
    keys = [renamed.get(key, key) for key in scattered.keys]
    values = {renamed.get(key, key): v for key, v in scattered.values.items()}
    return (
        replace(scattered, keys=keys, values=values),
        nodes,
        {renamed[key]: value for key, value in others.items()},
    )
