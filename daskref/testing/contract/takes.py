"""Rules about takes: one taker gets an object, in threads and in processes."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Timer

from daskref.connectors.base import Connector, Key
from daskref.testing.contract._commands import TIMEOUT, start
from daskref.testing.contract.expectations import expect, pattern


def takes(connector: Connector) -> None:
    """Expect that one of several takers gets the object, and later ones nothing."""
    for value in (b"", b"small", pattern(2_000_003, 5)):
        key = connector.put(value)
        view = connector.take(tuple(key))
        if view is None:
            raise AssertionError("take returns None for what was put")
        expect(view == value, "take returns other bytes than were put")
        expect(not connector.exists(key), "what was taken exists")
        expect(connector.take(key) is None, "a second take is not None")
        connector.put(pattern(len(value), 6))
        expect(view == value, "a later put changes what was taken")
    if type(connector).take is Connector.take:
        return  # the default: it does not say that two takers are told apart
    keys = [connector.put(b"for one only") for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(connector.take, keys * 4))
    winners = [view for view in taken if view is not None]
    expect(len(winners) == 20, f"{len(winners)} takers in threads got 20 objects")
    values = {bytes(view) for view in winners}
    expect(values == {b"for one only"}, "takers get other bytes")


def takers(connector: Connector) -> None:
    """Expect that one of two processes gets each object that both take."""
    if type(connector).take is Connector.take:
        return
    keys = [connector.put(b"for one only") for _ in range(200)]
    children = [start(_take, connector, keys) for _ in range(2)]
    taken = []
    watchdogs = [Timer(TIMEOUT, child.kill) for child in children]
    for watchdog in watchdogs:
        watchdog.start()
    try:
        for child in children:
            assert child.stdout is not None
            expect(child.stdout.read(5) == b"ready", "a taking process fails")
        for child in children:
            out, _ = child.communicate(b"go", timeout=TIMEOUT)
            expect(not child.returncode, "a taking process fails")
            taken += pickle.loads(out)
    finally:
        for watchdog in watchdogs:
            watchdog.cancel()
        for child in children:
            child.kill()
            child.communicate()
    expect(len(set(taken)) == len(taken), "two processes take one object")
    expect(set(taken) == set(keys), "objects that no process got")
    expect(not any(map(connector.exists, keys)), "what was taken exists")


def _take(connector: Connector, keys: list[Key]) -> list[Key]:
    sys.stdout.buffer.write(b"ready")
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read(2)
    return [key for key in keys if connector.take(key) is not None]
