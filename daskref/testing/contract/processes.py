"""Rules about several connectors of one store, and several takers of one object.

A second process needs nothing but the package: no test framework, and no file of the
rule's caller.
"""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Timer
from typing import Any

from daskref.connectors.base import Connector, Key
from daskref.connectors.registry import connector_path, load_connector
from daskref.testing.contract.expectations import LARGE, expect, expect_bytes, pattern
from daskref.testing.contract.keys import new_key

#: Seconds that a second process may take.
_TIMEOUT = 120


def configuration(connector: Connector) -> None:
    """Expect a connector of the same store from a configuration, or a pickle."""
    key = connector.put(b"shared")
    for other in (
        type(connector).from_config(connector.config()),
        load_connector(connector_path(connector), connector.config()),
        pickle.loads(pickle.dumps(connector)),
    ):
        with other:
            expect_bytes(other, key, b"shared", "an object, from a second connector")
            theirs = other.put(b"theirs")
            if (deferred := new_key(connector)) is not None:
                expect(other.get(deferred) is None, "a key that is not set")
                setter: Any = other
                setter.set(deferred, b"theirs")
                expect_bytes(connector, deferred, b"theirs", "what a second one set")
        expect_bytes(connector, theirs, b"theirs", "an object whose putter has closed")
        expect_bytes(connector, key, b"shared", "an object, after another has closed")


def processes(connector: Connector) -> None:
    """Expect that another process can read, put, evict and take."""
    values = [b"", b"small", pattern(LARGE, 3)]
    keys = [connector.put(value) for value in values]
    evicted = connector.put(b"evicted by the other process")
    child = _start(_second_process, connector, keys, evicted, stderr=subprocess.PIPE)
    try:
        out, error = child.communicate(timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise
    text = error.decode(errors="replace")
    expect(not child.returncode, f"a second process fails: {text}")
    seen, theirs = pickle.loads(out)
    expect(seen == [_digest(value) for value in values], "it reads other bytes")
    expect_bytes(connector, theirs, pattern(LARGE, 4), "what an ended process put")
    expect(not connector.exists(evicted), "what it evicted exists")
    for key, value in zip(keys, values, strict=True):
        expect_bytes(connector, key, value, "what it wrote to in its own memory")
    takers(connector)


def _digest(value: Any) -> str:
    return hashlib.sha256(value).hexdigest()


def _second_process(
    connector: Connector, keys: list[Key], evicted: Key
) -> tuple[list[str], Key]:
    seen = []
    for key in keys:
        view = memoryview(connector.get(key) or b"")
        seen.append(_digest(view))
        if view.nbytes and not view.readonly:
            view[0] ^= 1
    connector.evict(evicted)
    return seen, connector.put(pattern(LARGE, 4))


def threads(connector: Connector) -> None:
    """Expect that threads do not disturb each other."""
    value = pattern(200_000)
    shared = connector.put(value)

    def work(number: int) -> None:
        for turn in range(10):
            mine = pattern(70_000 + number, turn)
            key = connector.put(mine)
            view = expect_bytes(connector, key, mine, "an object, in threads")
            connector.evict(key)
            expect_bytes(connector, shared, value, "one object, in threads")
            expect(view == mine, "an object changes, in threads")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    keys = [connector.put(b"x") for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(connector.evict, keys * 4))
    expect(not any(map(connector.exists, keys)), "evicted in threads, yet there")


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
    children = [_start(_take, connector, keys) for _ in range(2)]
    taken = []
    watchdogs = [Timer(_TIMEOUT, child.kill) for child in children]
    for watchdog in watchdogs:
        watchdog.start()
    try:
        for child in children:
            assert child.stdout is not None
            expect(child.stdout.read(5) == b"ready", "a taking process fails")
        for child in children:
            out, _ = child.communicate(b"go", timeout=_TIMEOUT)
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


def _start(
    function: Callable[..., Any], connector: Connector, *args: Any, **options: Any
) -> subprocess.Popen[bytes]:
    """Call ``function(another connector of the store, *args)`` in a new Python.

    The end of its standard output is the pickled result. *options*: of ``Popen``.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", f"import {__name__} as t; t._serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,
    )
    assert child.stdin is not None
    task = (function, connector_path(connector), connector.config(), args)
    child.stdin.write(pickle.dumps(sys.path) + pickle.dumps(task))
    child.stdin.flush()
    return child


def _serve() -> None:
    stream = sys.stdin.buffer
    sys.path[:] = pickle.load(stream)
    function, path, config, args = pickle.load(stream)
    with load_connector(path, config) as connector:
        result = function(connector, *args)
    sys.stdout.buffer.write(pickle.dumps(result))
