"""Sites of tests: the scheduler's network, without Dask and without hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from daskref.connectors import ZmqConnector
from daskref.scheduler._holders import Holder, Holders
from daskref.scheduler._network import Network

HOSTS = {name: name * 32 for name in "abcdef"}
A, B, C = HOSTS["a"], HOSTS["b"], HOSTS["c"]
KEY = ("1" * 32, 8, A)
OTHER = ("2" * 32, 8, A)


class FakeScheduler:
    """What a network needs of Dask's, and what it did with that."""

    def __init__(self) -> None:
        self.workers: dict[str, Any] = {}
        self.clients: dict[str, Any] = {}
        self.tasks: dict[Any, Any] = {}
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.recommended: list[dict[Any, str]] = []
        self.events: list[dict[str, Any]] = []

    def worker_send(self, worker: str, message: dict[str, Any]) -> None:
        assert worker in self.workers
        self.sent.append((worker, message))

    def log_event(self, topic: str, event: dict[str, Any]) -> None:
        assert topic == "daskref"
        self.events.append(event)

    def transitions(self, recommendations: dict[Any, str], stimulus_id: str) -> None:
        self.recommended.append(recommendations)
        for key, state in recommendations.items():
            self.tasks[key].state = state


class Site:
    """A network, and hosts that say what real ones would."""

    def __init__(self, connector: ZmqConnector, lazily: bool = False) -> None:
        self.scheduler = FakeScheduler()
        self.holders = Holders()
        self.evicted_here: list[Any] = []
        self.home = connector.host
        self.network = Network(
            self.scheduler,  # type: ignore[arg-type]
            connector,
            self.holders,
            self.tell,
            self.evicted_here.extend,
            2,
            lazily,
        )

    @property
    def sent(self) -> list[tuple[str, dict[str, Any]]]:
        """What was sent to workers and clients, in order."""
        return self.scheduler.sent

    def tell(self, client: str, message: dict[str, Any]) -> None:
        self.sent.append((client, message))

    def told(self, op: str) -> list[tuple[str, dict[str, Any]]]:
        """Return who was told something, and what else; it is forgotten then."""
        found = [
            (who, {name: each for name, each in message.items() if name != "op"})
            for who, message in self.sent
            if message["op"] == op
        ]
        self.sent[:] = [each for each in self.sent if each[1]["op"] != op]
        return found

    def worker(
        self, name: str, host: str, names: tuple[str, ...] = (), serves: bool = True
    ) -> None:
        self.scheduler.workers[name] = SimpleNamespace()
        self.on_host(name, host, names, serves)

    def on_host(
        self, name: str, host: str, names: tuple[str, ...] = (), serves: bool = True
    ) -> None:
        self.network.on_host(
            worker=name,
            host=host,
            hostname=f"the host of {name}",
            endpoint=f"tcp://{name}:1" if serves else None,
            names=list(names),
        )

    async def client(self, name: str, host: str) -> dict[str, Any]:
        self.scheduler.clients[name] = SimpleNamespace()
        return await self.network.visit(name, host, f"the host of {name}")

    def stop(self, name: str) -> None:
        self.scheduler.workers.pop(name, None)
        self.scheduler.clients.pop(name, None)
        self.network.leave(name)

    def put(self, key: Any, kind: str = "client", name: Any = "client") -> None:
        self.holders.hold(Holder(kind, name), key, key[1])
        self.network.add(key)

    def result(self, task: Any, key: Any = KEY, **state: Any) -> Any:
        known: dict[str, Any] = {"state": "memory", "run_spec": object(), **state}
        self.scheduler.tasks[task] = SimpleNamespace(**known)
        self.put(key, "result", task)
        return self.scheduler.tasks[task]

    async def source(self, process: str, key: Any = KEY, **more: Any) -> dict[str, Any]:
        return await self.network.source(process, key, **{"failed": [], **more})


def run(test: Callable[[], Any]) -> Any:
    return asyncio.run(test())


def bookkeeping(network: Network) -> list[Any]:
    """Return all tables of a network that are not about hosts."""
    losses = network.losses
    return [losses._sought, losses._refused, network._starting, network._strays]
