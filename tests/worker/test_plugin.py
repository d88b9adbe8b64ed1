"""What the worker's plugin does at the steps of a task, without a worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from daskref.exceptions import ConnectorError
from daskref.proxy import Proxy
from daskref.store.factory import FailedFactory
from daskref.worker._results import Results
from daskref.worker.plugin import ReferenceWorkerPlugin


class Site:
    """A plugin, and what it has the event loop call."""

    def __init__(self) -> None:
        self.called: list[tuple[str, Any]] = []
        self.settings = SimpleNamespace(
            threshold=10, results="on-transfer", on_failure="inband"
        )
        worker: Any = SimpleNamespace(
            data={},
            state=SimpleNamespace(tasks={"x": SimpleNamespace(nbytes=11)}, nbytes=11),
            loop=SimpleNamespace(add_callback=self._note),
        )
        plugin: Any = ReferenceWorkerPlugin(b"")
        plugin.worker = worker
        plugin._results = Results(worker)
        self.plugin = plugin

    def _note(self, call: Any, key: Any) -> None:
        self.called.append((call.__name__, key))

    def transition(self, start: str, **settings: str) -> list[tuple[str, Any]]:
        """Let a task come into memory in a session; return what is called then."""
        vars(self.settings).update(settings)
        info = SimpleNamespace(settings=self.settings)
        self.plugin._use(SimpleNamespace(reachable=True, info=info))
        self.plugin.transition("x", start, "memory")
        return self.called


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize("before", ["executing", "long-running"])
def test_on_completion_puts_what_a_task_has_made(site: Site, before: str) -> None:
    assert not site.transition(before)
    assert site.transition(before, results="on-completion") == [("_complete", "x")]


def test_on_completion_leaves_alone_what_another_worker_sent(site: Site) -> None:
    # its maker has put it, and counted that
    assert not site.transition("flight", results="on-completion")


def test_what_stands_for_a_failure_is_no_replica_where_that_raises(site: Site) -> None:
    site.plugin.worker.data["x"] = Proxy(FailedFactory(ConnectorError("here", "no")))
    assert not site.transition("flight")
    assert not site.transition("executing", on_failure="raise")
    assert site.transition("flight") == [("_disown", "x")]
