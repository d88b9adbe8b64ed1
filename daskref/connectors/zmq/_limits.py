"""The bounds of ``zmq://``: sizes, counts and waits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

from daskref.connectors.zmq._wire import LARGEST_CHUNK
from daskref.exceptions import ConfigError
from daskref.units import parse_size

#: Requests of this many are sent before a reply is read: they have to fit into what
#: the kernel keeps for the connection.
LARGEST_WINDOW = 64


@dataclass(frozen=True)
class Limits:
    """Make it with :meth:`parse`; :class:`ZmqConnector` says what each one is."""

    chunk: int = 2**20
    window: int = 8
    #: More connections than that only take the cores from each other (measured).
    lanes: int = field(default_factory=lambda: max(1, min(4, _cores() // 2)))
    timeout: float = 60.0
    stall: float = 10.0
    handshake: float = 5.0
    heartbeat: float = 10.0
    connections: int = 1024
    pushes: int = 16
    push_nbytes: int = 64 * 2**30
    push_age: float = 60.0

    @classmethod
    def parse(cls, **values: Any) -> Limits:
        """Return limits from what users write; ``None`` is the default.

        Raises
        ------
        ConfigError
            If one is malformed, or not positive.
        """
        found = {}
        for each in fields(cls):
            value = values.get(each.name)
            if value is not None:
                kind = float if isinstance(each.default, float) else int
                found[each.name] = _parse(each.name, value, kind)
        limits = cls(**found)
        if limits.chunk > LARGEST_CHUNK:
            raise ConfigError(
                "zmq: chunk", limits.chunk, f"at most {LARGEST_CHUNK} bytes"
            )
        if limits.window > LARGEST_WINDOW:
            raise ConfigError("zmq: window", limits.window, f"at most {LARGEST_WINDOW}")
        return limits


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _parse(name: str, value: Any, kind: type) -> Any:
    setting = f"zmq: {name}"
    if name in ("chunk", "push_nbytes"):
        number: float = parse_size(value, setting)
    else:
        try:
            number = kind(value)
        except (TypeError, ValueError):
            number = 0
    if not 0 < number < float("inf"):
        what = "a number of seconds" if kind is float else "a whole number"
        raise ConfigError(setting, value, f"{what} above 0")
    return number
