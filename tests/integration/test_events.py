"""What a session does is in Dask's log of events, under ``daskref``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import distributed
import pytest
from distributed import LocalCluster

import daskref
from daskref.connectors import FileConnector
from daskref.exceptions import ConnectorError
from tests.support.common import large, wait_until
from tests.support.tasks import make, total

SUM = 262144.0


@pytest.fixture
def plain() -> Iterator[Any]:
    """A plain client of a cluster that nobody has set up."""
    with (
        LocalCluster(processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def events(client: Any) -> list[Any]:
    return [event for _, event in client.get_events("daskref")]


def test_coming_and_going(plain: Any) -> None:
    daskref.enable(plain, threshold="2 MiB")
    opened, joined = events(plain)
    (worker,) = plain.scheduler_info()["workers"].values()
    assert list(opened.pop("hosts")) == [worker["host"]]
    assert opened.pop("budget").endswith("B")
    assert opened == {"action": "open", "connector": "auto", "threshold": "2 MiB"}
    assert joined == {"action": "add-client", "client": plain.id}
    daskref.disable(plain)
    assert events(plain)[2:] == [
        {"action": "remove-client", "client": plain.id},
        {"action": "close"},
    ]


def test_a_client_that_closes_has_left(plain: Any) -> None:
    with daskref.Client(plain.cluster, set_as_default=False) as client:
        gone = {"action": "remove-client", "client": client.id}
        assert gone not in events(plain)
    wait_until(lambda: gone in events(plain))


def test_a_store_that_fails(plain: Any, tmp_path: Any, monkeypatch: Any) -> None:
    def fail(self: Any, frames: Any) -> Any:
        raise ConnectorError("<file>", "no room for an object")

    daskref.enable(plain, connector=f"file://{tmp_path}/secret-less")
    monkeypatch.setattr(FileConnector, "put_frames", fail)
    for _ in range(2):
        assert plain.submit(total, large(), pure=False).result() == SUM
        assert plain.submit(make, pure=False).result()[0] == 1

    def fallbacks() -> list[Any]:
        return [each for each in events(plain) if each["action"] == "fallback"]

    wait_until(fallbacks)
    (event,) = fallbacks()
    assert "no room for an object" in event["reason"]
    assert {"client", "worker"} & event.keys()
    daskref.disable(plain)
