"""Connectors with stores of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daskref.connectors import Connector, SharedMemoryConnector, ZmqConnector
from daskref.connectors.registry import open_connector, registered
from tests.support.child_processes import Child
from tests.support.redis_servers import Certificates, RedisServer
from tests.support.zmq_hosts import Hosts, peers

#: Arguments for a store of the test's own, by scheme; none needed by default.
ARGUMENTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "file": lambda path: {"store_dir": path / "shared"},
    "fsspec": lambda path: {"url": f"fsspec+file://{path}/shared"},
    "memory": lambda path: {"url": f"memory:/{path}"},
    "shm": lambda path: {"spill_directory": path},
    "zmq": lambda path: {"spill_directory": path},
}
#: Fixtures of servers, by the scheme of the connectors that need one.
SERVERS = {"redis": "redis_server", "rediss": "redis_tls_server", "s3": "s3"}
#: Rules that a connector cannot keep, by scheme.
RELAXED = {"local": {"processes"}, "memory": {"processes"}}
#: Schemes of classes that have others too, for servers that the tests do not have.
ALIASES = {"abfs", "az", "gcs", "gs"}


@pytest.fixture(
    params=[
        pytest.param(scheme, marks=pytest.mark.slow) if scheme in SERVERS else scheme
        for scheme in sorted(registered().keys() - ALIASES)
    ]
)
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(
    scheme: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[], Connector]:
    arguments = ARGUMENTS.get(scheme, lambda path: {})(tmp_path)
    if scheme in SERVERS:
        arguments |= request.getfixturevalue(SERVERS[scheme]).arguments
    spec = {
        "class": registered()[scheme].__module__ + ":" + registered()[scheme].__name__
    }
    return lambda: open_connector({**spec, **arguments})


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def redis_tls_server(certificates: Certificates) -> Iterator[RedisServer]:
    """The same, with TLS."""
    server = RedisServer(tls=certificates)
    yield server
    server.close()


@pytest.fixture
def shm(tmp_path: Path) -> Iterator[SharedMemoryConnector]:
    with SharedMemoryConnector(spill_directory=tmp_path) as connector:
        yield connector


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """``code, **names -> Child``; killed when the test ends."""
    started: list[Child] = []

    def start(code: str, *, prefix: tuple[str, ...] = (), **names: Any) -> Child:
        started.append(Child(code, names, prefix))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def hosts(child: Callable[..., Child]) -> Iterator[Callable[..., Hosts]]:
    """``**options -> Hosts``: hosts with their own directories; see ``zmq_hosts``."""
    made: list[Hosts] = []

    def make(**options: Any) -> Hosts:
        made.append(Hosts(child, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture(params=["tls", "clear"])
def security(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(hosts: Callable[..., Hosts]) -> tuple[ZmqConnector, ZmqConnector]:
    """Two hosts; the first one serves."""
    made = hosts()
    a = made.open("a", serve=True)
    return a, made.open("b", peers=peers(a))
