"""Several "hosts" on one machine: directories of their own, sockets on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from daskref.connectors.credentials import remember
from daskref.connectors.zmq import ZmqConnector
from daskref.connectors.zmq._server import Server
from daskref.connectors.zmq._wire import Limits
from daskref.connectors.zmq.sources import Source, Sources
from tests.support.child_processes import Child

#: In a child: ``connector``, made of the options that it is told on standard input.
CONNECT = """
import json
from daskref.connectors.credentials import remember
from daskref.connectors.zmq import ZmqConnector
from daskref.connectors.zmq._wire import Limits
options, constants, secrets = json.loads(sys.stdin.readline())
for place, found in secrets.items():
    remember(place, found)
ZmqConnector.limits = Limits(**constants)
connector = ZmqConnector(**options)
"""
#: What a child does that only serves; it ends when standard input does.
SERVE = CONNECT + "print(json.dumps(connector.endpoints), flush=True)\nsys.stdin.read()"
#: Small waits: nothing here is far away.
QUICK = {"stall": 5, "timeout": 20, "interface": "127.0.0.1"}
#: Constants of a connector, which only tests choose.
CONSTANTS = {each.name for each in fields(Limits)} - {"timeout", "lanes"}
#: Seconds that a thread of a test may take.
LONG = 30.0


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[Sources]:
    """Return the sources that connectors attend to at any time."""
    found: list[Sources] = []
    attend = ZmqConnector.attend

    def attend_and_note(self: ZmqConnector, sources: Sources) -> Callable[[], None]:
        leave = attend(self, sources)
        found.append(sources)

        def leave_and_note() -> None:
            found.remove(sources)
            leave()

        return leave_and_note

    monkeypatch.setattr(ZmqConnector, "attend", attend_and_note)
    return found


class Hosts:
    """Hosts by name, of one session; each has a directory for its ``/dev/shm``.

    Options are those of the connector, and :data:`CONSTANTS` of its limits.
    """

    def __init__(self, start: Callable[..., Child], **options: Any) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="daskref-hosts-", dir="/dev/shm"))
        options = {**QUICK, "spill_directory": str(self.base), **options}
        self.constants = _constants(options)
        self.options = _without_constants(options)
        self._start = start
        self._opened: list[ZmqConnector] = []
        self._children: list[Child] = []
        self._told: list[str] = []
        #: Takes part, so that the session has keys; on no host that tests use.
        self.founder = ZmqConnector(root=self.root("founder"), **self.options)
        self._opened.append(self.founder)

    def root(self, name: str) -> str:
        path = self.base / name
        path.mkdir(exist_ok=True)
        return str(path)

    def config(self, name: str, **options: Any) -> dict[str, Any]:
        config = {**self.founder.config(), "root": self.root(name)}
        return {**config, **_without_constants(options)}

    def open(self, name: str, **options: Any) -> ZmqConnector:
        """Return a connector of this process that takes part as if on that host."""
        limits = Limits(**{**self.constants, **_constants(options)})
        with patch.object(ZmqConnector, "limits", limits):
            self._opened.append(ZmqConnector(**self.config(name, **options)))
        return self._opened[-1]

    def child(self, name: str, code: str, names: Any = None, **options: Any) -> Child:
        """Return a process on that host; *code* finds ``connector``."""
        child = self._start(CONNECT + code, **(names or {}))
        self._children.append(child)
        self._tell(child, name, options)
        return child

    def server(self, name: str, **options: Any) -> tuple[Child, str]:
        """Return a process that serves that host, and its endpoint."""
        child = self._start(SERVE)
        self._children.append(child)
        self._tell(child, name, {"serve": True, **options})
        place = next(p for p in json.loads(child.line()) if p not in self._told)
        self._told.append(place)
        return child, place

    def _tell(self, child: Child, name: str, options: dict[str, Any]) -> None:
        constants = {**self.constants, **_constants(options)}
        secrets = self.founder.secrets()
        child.say(json.dumps([self.config(name, **options), constants, secrets]))

    def end(self) -> None:
        for connector in reversed(self._opened):
            connector.close()
        for child in self._children:
            child.end()
        # What was killed left its session behind.
        shutil.rmtree(self.base)


def _constants(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in CONSTANTS}


def _without_constants(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in CONSTANTS}


def peers(*connectors: ZmqConnector) -> dict[str, list[str]]:
    return {each.host: each.endpoints for each in connectors}


def pattern(nbytes: int, seed: int = 1) -> bytes:
    block = bytes((seed * 37 + i * 7 + i // 251) % 256 for i in range(4099))
    return (block * (nbytes // len(block) + 1))[:nbytes]


def server_of(connector: ZmqConnector) -> Server:
    server = connector._session._server
    assert server is not None
    return server


def parts_left(connector: ZmqConnector) -> list[str]:
    """Return the files of unfinished transfers of a host."""
    path = connector.local.directory
    return [n for n in os.listdir(path) if n.startswith((".f-", "f-", ".u-", ".w-"))]


class Relay:
    """Passes connections on to a server, and keeps what went by."""

    def __init__(self, endpoint: str) -> None:
        address, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._target = address, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = bytearray()
        self.received = bytearray()
        #: Where a bit of what the server says is turned, once.
        self.changes_at: int | None = None
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for pair in ((near, far, self.sent), (far, near, self.received)):
                    thread = threading.Thread(target=self._pass, args=pair)
                    self._threads.append(thread)
                    thread.start()

    def _pass(self, source: Any, target: Any, kept: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                kept += data
                at = self.changes_at
                if kept is self.received and at is not None and at < len(kept):
                    self.changes_at = None
                    data = data[:-1] + bytes([data[-1] ^ 1])
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in [self._listener, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)


@contextmanager
def relay(endpoint: str) -> Iterator[Relay]:
    made = Relay(endpoint)
    try:
        yield made
    finally:
        made.close()


def know(secrets: dict[str, dict[str, str]]) -> None:
    for place, found in secrets.items():
        remember(place, found)


class Told(Sources):
    """Says where it was told that objects are, and keeps what it hears."""

    def __init__(self, *found: Source) -> None:
        self.found = list(found)
        self.log: list[Any] = []

    @property
    def takers(self) -> bool:
        return bool(self.found)

    def sources(self, key: Any, waiting: Any) -> list[Source]:
        self.log.append("sources")
        return self.found

    def ended(self, key: Any, copied: bool) -> None:
        self.log.append(("ended", key, copied))

    def given_up(self, key: Any) -> None:
        self.log.append(("given up", key))

    def failed(self, key: Any, endpoint: str) -> None:
        self.log.append(("failed", endpoint))

    def copies(self, key: Any) -> list[Source]:
        return self.found

    def targets(self, nbytes: int) -> list[Source]:
        return self.found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def in_thread(function: Callable[..., Any], *args: Any) -> Future[Any]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *args)
    pool.shutdown(wait=False)
    return future
