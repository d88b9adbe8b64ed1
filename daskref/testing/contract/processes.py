"""Rules about several connectors of one store, in processes and threads."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from daskref.connectors.base import Connector, Key
from daskref.connectors.registry import connector_path, load_connector
from daskref.testing.contract._commands import TIMEOUT, start
from daskref.testing.contract.expectations import LARGE, expect, expect_bytes, pattern
from daskref.testing.contract.keys import new_key
from daskref.testing.contract.takes import takers


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
    child = start(_second_process, connector, keys, evicted, stderr=subprocess.PIPE)
    try:
        out, error = child.communicate(timeout=TIMEOUT)
    finally:
        child.kill()
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
