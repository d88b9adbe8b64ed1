"""The values of a worker's data on their way to another process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed.protocol.serialize import Serialized, to_serialize
from distributed.spill import SpillBuffer

from daskref.cluster.connections import without_family


@dataclass(eq=False, repr=False)
class ServedComm:
    """A connection that converts outgoing values."""

    _comm: Any
    #: ``(key, value) -> bool``: whether the value is converted.
    _concerns: Callable[[Any, Any], bool]
    #: ``async (key, value) -> value``, or one that is serialized already.
    _convert: Callable[[Any, Any], Awaitable[Any]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    async def write(self, msg: Any, **kwargs: Any) -> Any:
        """Write a message, with the values under ``data`` converted."""
        data = msg.get("data") if isinstance(msg, dict) else None
        if data:
            keys = [k for k, each in data.items() if self._concerns(k, each.data)]
            if keys:
                values = await asyncio.gather(
                    *(self._convert(key, data[key].data) for key in keys)
                )
                served = zip(keys, map(_to_serialize, values), strict=True)
                msg = {**msg, "data": {**data, **dict(served)}}
            # Values stay values: the family would put them again.
            if names := kwargs.get("serializers"):
                kwargs["serializers"] = without_family(names)
        return await self._comm.write(msg, **kwargs)


def _to_serialize(value: Any) -> Any:
    # not isinstance(): it would ask a user's proxy for the type of its target
    return value if type(value) is Serialized else to_serialize(value)


def peek(data: Mapping[Any, Any], key: Any) -> Any:
    """Return a worker's value in memory, or ``None``; reads no disk, counts no access.

    *data*: ``Worker.data``, Dask's own or a mapping that the user has chosen.
    """
    return (data.memory if isinstance(data, SpillBuffer) else data).get(key)
