"""Rules about ends: of connectors, links and leases; and about usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daskref.connectors.base import Connector, Usage
from daskref.exceptions import ConnectorClosedError
from daskref.testing.contract.expectations import (
    expect,
    expect_bytes,
    expect_raises,
    pattern,
)


def closing(connector: Connector) -> None:
    """Expect that only views outlast a connector."""
    key = connector.put(b"bytes")
    view = expect_bytes(connector, key, b"bytes", "an object")
    config = connector.config()
    connector.close()
    connector.close()
    expect(bytes(view) == b"bytes", "closing changes what a reader holds")
    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: connector.put(b"x"),
        "get": lambda: connector.get(key),
        "exists": lambda: connector.exists(key),
        "evict": lambda: connector.evict(key),
    }
    for name, call in calls.items():
        expect_raises(ConnectorClosedError, f"{name} after close", call)
    expect(connector.config() == config, "config changes by closing")
    expect(isinstance(repr(connector), str), "repr fails after close")


def links(connector: Connector) -> None:
    """Expect that a link keeps the bytes without the first key."""
    value = pattern(100_000)
    key = connector.put(value)
    second = connector.link(key)
    if second is None:
        return
    expect(second != key, "link returns the same key")
    connector.evict(key)
    expect(not connector.exists(key), "an evicted key exists because of a link")
    connector.put(pattern(100_000, 9))
    expect_bytes(connector, second, value, "a link whose first key was evicted")
    expect(connector.link(key) is None, "link of an evicted object")
    connector.evict(second)
    expect(connector.get(second) is None, "an evicted link is there")


def leases(connector: Connector) -> None:
    """Expect that sweeping deletes objects whose lease has expired, and no others."""
    ended, running, without = (connector.put(b"leased") for _ in range(3))
    if not connector.renew(ended, 0.0):
        return
    expect(connector.renew(running, 1000.0), "renew returns False")
    swept = connector.sweep()
    expect(swept == [ended], f"sweep returns {swept}, not the one expired")
    expect(not connector.exists(ended), "sweep leaves an expired lease")
    expect(connector.exists(running), "sweep deletes a running lease")
    expect(connector.exists(without), "sweep deletes an object without a lease")
    expect(not connector.renew(ended, 1000.0), "renew of a deleted object")
    expect(connector.renew(running, 0.0), "renew returns False")
    expect(connector.sweep() == [running], "a lease was not shortened")
    expect(connector.sweep([], 0.0) == [], "sweep deletes what a live process put")


def counts(connector: Connector) -> None:
    """Expect that usage counts each stored object once."""
    try:
        before = connector.usage()
    except NotImplementedError:
        return
    keys = [connector.put(bytes(100)), connector.put(bytes(70_000))]
    now = Usage(before.objects + 2, before.nbytes + 70_100)
    expect(connector.usage() == now, f"usage is {connector.usage()}, not {now}")
    if linked := connector.link(keys[0]):
        expect(connector.usage() == now, "usage counts a link")
        keys.append(linked)
    for key in keys:
        connector.evict(key)
    expect(connector.usage() == before, "usage counts what was evicted")
