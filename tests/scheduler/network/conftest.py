"""Sites for what the scheduler does for hosts that are apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from daskref.connectors import ZmqConnector
from daskref.scheduler import _network as module
from tests.support.sites import Site


@pytest.fixture
def connector(tmp_path: Any) -> Iterator[ZmqConnector]:
    with ZmqConnector(root=tmp_path) as connector:
        yield connector


@pytest.fixture
def site(connector: ZmqConnector) -> Site:
    return Site(connector)


@pytest.fixture
def lazy(connector: ZmqConnector) -> Site:
    """A site whose workers serve once they have to."""
    return Site(connector, lazily=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.0)
