"""What the worker's plugin does at the steps of a task, without a worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from daskref.exceptions import ConnectorError
from daskref.proxy import Proxy
from daskref.store.factory import FailedFactory
from daskref.worker.plugin import ReferenceWorkerPlugin


class Site:
    """A plugin, and what it has the event loop call."""

    def __init__(self) -> None:
        self.called: list[Any] = []
        plugin: Any = ReferenceWorkerPlugin(b"")
        plugin._on_completion = plugin._raises = False
        plugin.threshold = 10
        plugin.session = SimpleNamespace(reachable=True)
        plugin.worker = SimpleNamespace(
            data={},
            state=SimpleNamespace(tasks={"x": SimpleNamespace(nbytes=11)}, nbytes=11),
            loop=SimpleNamespace(add_callback=lambda *call: self.called.append(call)),
        )
        self.plugin = plugin


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize("before", ["executing", "long-running"])
def test_on_completion_puts_what_a_task_has_made(site: Site, before: str) -> None:
    site.plugin.transition("x", before, "memory")
    assert not site.called
    site.plugin._on_completion = True
    site.plugin.transition("x", before, "memory")
    assert site.called == [(site.plugin._complete, "x")]


def test_on_completion_leaves_alone_what_another_worker_sent(site: Site) -> None:
    # its maker has put it, and counted that
    site.plugin._on_completion = True
    site.plugin.transition("x", "flight", "memory")
    assert not site.called


def test_what_stands_for_a_failure_is_no_replica_where_that_raises(site: Site) -> None:
    site.plugin.worker.data["x"] = Proxy(FailedFactory(ConnectorError("here", "no")))
    site.plugin.transition("x", "flight", "memory")
    assert not site.called
    site.plugin._raises = True
    site.plugin.transition("x", "executing", "memory")
    assert not site.called
    site.plugin.transition("x", "flight", "memory")
    assert site.called == [(site.plugin._disown, "x")]
