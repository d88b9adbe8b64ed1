"""Redis servers that a test may do harm to, and nothing left in the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from daskref.connectors import credentials
from daskref.connectors.redis import RedisConnector
from tests.support.common import wait_until
from tests.support.redis_servers import SECRET, RedisServer


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DASKREF_REDIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(credentials, "_known", {})


@pytest.fixture(autouse=True)
def nothing_stays_in_the_server(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "redis_server" in request.fixturenames:
        server = request.getfixturevalue("redis_server")
        try:
            wait_until(lambda: not server.names(), "no keys are left", 5)
        finally:
            server.ask("FLUSHALL")


@pytest.fixture
def connector(redis_server: RedisServer) -> Iterator[RedisConnector]:
    with RedisConnector(redis_server.url) as connector:
        yield connector


@pytest.fixture
def own_server() -> Iterator[Callable[..., RedisServer]]:
    """``**options -> RedisServer`` for a test that does it harm."""
    started: list[RedisServer] = []

    def start(**options: Any) -> RedisServer:
        started.append(RedisServer(**options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A server that asks for a password, and knows a user."""
    users = [
        f"default on >{SECRET} ~* &* +@all",
        f"alice on >{SECRET}2 ~daskref:* +@read +@write +@scripting +@connection +time",
        f"bob on >{SECRET}2 ~other:* +@all",
        f"carol on >{SECRET}2 ~daskref:* +@all -@scripting",
    ]
    server = RedisServer(user=users)
    yield server
    server.close()
