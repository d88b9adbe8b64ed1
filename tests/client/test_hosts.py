"""A client's part in a session whose hosts are apart."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from daskref.client._hosts import Visit
from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.connectors import ZmqConnector
from daskref.connectors.files.directory import new_name
from daskref.connectors.zmq.sources import Source, Sources
from daskref.objects.codec import encode
from tests.support.common import until_idle, wait_until
from tests.support.zmq_hosts import attended as attended

ELSEWHERE = "e" * 32
NAME = new_name("1" * 8)
#: Nobody listens there.
DEAD = ["tcp://127.0.0.1:1"]


class FakeScheduler:
    """Answers a visit; its errors are raised."""

    def __init__(self) -> None:
        self.visits: list[dict[str, Any]] = []
        self.answer: Any = None

    async def daskref_visit(self, **message: Any) -> Any:
        self.visits.append(message)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def daskref_copies(self, **message: Any) -> Any:
        return [(ELSEWHERE, DEAD)]


class FakeHoldings:
    """What a client holds, by key."""

    def __init__(self) -> None:
        self.held: dict[Any, tuple[str, list[Any]]] = {}

    def originals(self, key: Any) -> tuple[str, list[Any]]:
        return self.held.get(key, ("", []))


class Client:
    """A client of a real session, with a scheduler that is none."""

    def __init__(self, session: ClusterStore) -> None:
        self.session = session
        assert session.store is not None
        self.connector = session.store.connector
        assert isinstance(self.connector, ZmqConnector)
        self.scheduler = FakeScheduler()
        home = self.connector.host
        self.scheduler.answer = {"hosts": {}, "home": home, "beside": False}
        self.holdings = FakeHoldings()
        self.sent: list[dict[str, Any]] = []
        self.retreated = 0
        self.dask = SimpleNamespace(id="client", scheduler=self.scheduler, loop=None)
        self.visit = self.make()

    def make(self) -> Visit:
        return Visit(
            self.dask,
            self.session,
            self.connector,
            self.holdings,  # type: ignore[arg-type]
            self.sent.append,
            self._retreat,
        )

    def _retreat(self) -> None:
        self.retreated += 1

    def hear(self, op: str, **message: Any) -> None:
        # Dask waits for what is awaitable, and reads no further message meanwhile
        assert self.visit.handlers[f"daskref-{op}"](**message) is None


@pytest.fixture
def session(tmp_path: Any) -> Iterator[ClusterStore]:
    settings = Settings.read(connector="auto", shm_root=str(tmp_path), timeout="1s")
    session = ClusterStore.create(settings)
    yield session
    session.leave()


@pytest.fixture
def client(session: ClusterStore) -> Client:
    return Client(session)


def test_tells_the_scheduler_of_its_host(
    client: Client, attended: list[Sources]
) -> None:
    asyncio.run(client.visit.begin())
    (told,) = client.scheduler.visits
    assert told.pop("hostname")
    assert told == {"process": "client", "host": client.connector.host}
    assert attended == [client.visit._locator]
    client.visit.end()
    assert not attended


def test_ends_although_it_has_not_begun(
    client: Client, attended: list[Sources]
) -> None:
    client.scheduler.answer = OSError("the scheduler is gone")
    with pytest.raises(OSError, match="is gone"):
        asyncio.run(client.visit.begin())
    client.visit.end()
    client.visit.end()
    assert not attended
    assert client.session.inband.has_place


def test_hosts_may_be_told_of_before_the_answer(client: Client) -> None:
    """Dask's stream and the answer to a question are not in order."""

    async def test() -> None:
        client.hear(
            "hosts", host=ELSEWHERE, endpoints=["tcp://127.0.0.1:2"], workers=True
        )
        client.scheduler.answer["hosts"] = {ELSEWHERE: DEAD, "f" * 32: DEAD}
        client.visit._checked = True
        await client.visit.begin()
        hosts = {ELSEWHERE: ["tcp://127.0.0.1:2"], "f" * 32: DEAD}
        assert client.visit._locator.hosts == hosts
        client.visit.end()

    asyncio.run(test())


class TestTakes:
    def test_at_home_or_where_there_are_hosts(self, client: Client) -> None:
        async def test() -> None:
            await client.visit.begin()
            assert client.session.inband.has_place
            client.visit.end()
            client.visit = client.make()
            client.visit._checked = True
            client.scheduler.answer["home"] = ELSEWHERE
            await client.visit.begin()
            assert not client.session.inband.has_place
            assert client.session.put(np.arange(10)) is None
            client.hear("hosts", host=ELSEWHERE, endpoints=DEAD, workers=True)
            assert client.session.inband.has_place
            client.hear("hosts", host=ELSEWHERE, endpoints=[], workers=False)
            assert not client.session.inband.has_place
            client.visit.end()

        asyncio.run(test())

    def test_not_before_it_takes_part(self, client: Client) -> None:
        async def test() -> None:
            here = client.connector.host
            client.hear("hosts", host=here, endpoints=[], workers=False)
            assert client.session.inband.has_place
            client.visit.end()
            client.hear("hosts", host=here, endpoints=[], workers=False)
            assert client.session.inband.has_place

        asyncio.run(test())

    @pytest.mark.parametrize("before", [False, True])
    def test_beside_workers_that_do_not_serve(
        self, client: Client, before: bool
    ) -> None:
        """While there is one host of workers, and the scheduler is elsewhere."""

        async def test() -> None:
            client.scheduler.answer |= {"home": ELSEWHERE, "beside": before}
            await client.visit.begin()
            here = client.connector.host
            assert client.session.inband.has_place == before
            client.hear("hosts", host=here, endpoints=[], workers=True)
            assert client.session.inband.has_place
            client.hear("hosts", host="f" * 32, endpoints=[], workers=False)
            assert client.session.inband.has_place
            client.hear("hosts", host=here, endpoints=[], workers=False)
            assert not client.session.inband.has_place
            client.visit.end()

        asyncio.run(test())

    @pytest.mark.parametrize("first", [0, 1])
    def test_each_client_of_a_process_has_its_say(
        self, client: Client, first: int
    ) -> None:
        visits = [client.visit, client.make()]
        client.scheduler.answer["home"] = ELSEWHERE
        for visit in visits:
            asyncio.run(visit.begin())
        visits.pop(first).end()
        assert not client.session.inband.has_place
        visits.pop().end()
        assert client.session.inband.has_place


class TestCheck:
    @pytest.fixture
    def unreached(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> list[Source]:
        asked: list[Source] = []
        monkeypatch.setattr(client.connector, "reaches", asked.append)
        return asked

    def test_out_of_reach_if_no_host_lets_it_in(
        self, client: Client, unreached: list[Source], caplog: Any
    ) -> None:
        hosts = {f"{n}" * 32: DEAD for n in range(5)}
        client.scheduler.answer["hosts"] = hosts
        asyncio.run(client.visit.begin())
        assert not client.session.reachable
        assert client.retreated == 1
        assert len(unreached) == 3
        (record,) = caplog.records
        assert "lets this client in" in record.getMessage()
        assert DEAD[0] in record.getMessage()
        client.visit.end()

    def test_one_that_answers_is_enough(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client.scheduler.answer["hosts"] = {f"{n}" * 32: DEAD for n in range(5)}
        monkeypatch.setattr(client.connector, "reaches", lambda source: True)
        asyncio.run(client.visit.begin())
        assert client.session.reachable
        assert not client.retreated
        client.visit.end()

    def test_its_own_host_need_not_be_asked(
        self, client: Client, unreached: list[Source]
    ) -> None:
        client.scheduler.answer["hosts"] = {client.connector.host: DEAD}
        asyncio.run(client.visit.begin())
        assert client.session.reachable
        assert not unreached
        client.visit.end()

    def test_later_if_there_is_none_yet(
        self, client: Client, unreached: list[Source]
    ) -> None:
        async def test() -> None:
            await client.visit.begin()
            assert client.session.reachable
            client.hear("hosts", host=ELSEWHERE, endpoints=DEAD, workers=True)
            await until_idle()
            assert not client.session.reachable
            client.hear("hosts", host="f" * 32, endpoints=DEAD, workers=True)
            await until_idle()
            assert len(unreached) == 1  # it has its answer
            client.visit.end()

        asyncio.run(test())


class TestWanted:
    @pytest.fixture
    def serving(self, client: Client) -> Client:
        """A client beside a worker that serves: nothing has to be sent."""
        client.connector.serve("127.0.0.1")
        return client

    async def supplied(self, client: Client, key: Any) -> Any:
        client.hear("wanted", object=list(key))
        await until_idle()
        (message,) = client.sent
        assert message.pop("op") == "daskref-supplied"
        assert message.pop("object") == key
        client.visit.end()
        return message.pop("host")

    def hold(self, client: Client, *values: Any, of: Any) -> Any:
        nbytes = sum(memoryview(frame).nbytes for frame in encode(of).frames)
        key = (NAME, nbytes, ELSEWHERE)
        client.holdings.held[key] = encode(of).token, list(values)
        return key

    def test_what_it_has_is_sent(self, serving: Client) -> None:
        value = np.arange(1000)
        key = self.hold(serving, value, of=value)
        host = asyncio.run(self.supplied(serving, key))
        assert host == serving.connector.host
        found = serving.connector.get(key)
        assert found is not None
        assert found.nbytes == key[1]

    def test_what_was_changed_since_is_not(self, serving: Client) -> None:
        value = np.arange(1000)
        key = self.hold(serving, value + 1, of=value)
        assert asyncio.run(self.supplied(serving, key)) is None
        assert key[0] not in serving.connector.here()

    def test_what_is_stored_on_its_host_is_sent(self, serving: Client) -> None:
        key = serving.connector.put(b"x" * 100)
        host = asyncio.run(self.supplied(serving, key))
        assert host == serving.connector.host

    def test_what_it_has_not_got_is_refused(self, serving: Client) -> None:
        key = (NAME, 8, ELSEWHERE)
        assert asyncio.run(self.supplied(serving, key)) is None

    def test_what_no_host_takes_is_refused(
        self, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        value = np.arange(1000)
        key = self.hold(client, value, of=value)
        assert asyncio.run(self.supplied(client, key)) is None
        assert "could not do as the scheduler said" in caplog.text

    def test_a_mistake_of_ours_is_a_refusal_that_is_said(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        monkeypatch.setattr(client.connector, "supply", None)
        key = (NAME, 8, ELSEWHERE)
        assert asyncio.run(self.supplied(client, key)) is None
        assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_what_the_scheduler_says_holds_up_no_other_message(client: Client) -> None:
    async def test() -> None:
        let = threading.Event()
        client.session.executor.submit(let.wait, 10)
        key = client.connector.put(b"x" * 100)
        client.connector.evict_here = lambda keys: let.wait(10)  # type: ignore
        client.hear("evict", objects=[key])
        client.hear("sweep", known=[], grace=0.0)
        let.set()
        await until_idle()
        client.visit.end()

    asyncio.run(test())


def test_evicts_and_sweeps_on_its_host(client: Client) -> None:
    async def test() -> None:
        evicted, kept, other = (client.connector.put(b"x" * n) for n in (1, 2, 3))
        client.hear("evict", objects=[list(evicted)])
        await until_idle()
        assert set(client.connector.here()) == {kept[0], other[0]}
        client.hear("sweep", known=[kept[0]], grace=60.0)
        await until_idle()
        # the other one is too young to be swept
        assert set(client.connector.here()) == {kept[0], other[0]}
        client.visit.end()
        client.hear("evict", objects=[kept])  # it has no part any more
        assert not len(client.visit._errands)
        assert kept[0] in client.connector.here()

    asyncio.run(test())


def test_asks_through_a_client_that_is_connected(client: Client) -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        client.dask.loop = SimpleNamespace(asyncio_loop=loop)
        key = (NAME, 8, "f" * 32)
        locator = client.visit._locator
        assert locator.copies(key) == [Source(ELSEWHERE, DEAD)]
        client.dask.scheduler = None  # as Dask does when it closes
        assert locator.copies(key) == [Source("f" * 32, [])]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        wait_until(lambda: not loop.is_running(), "the loop has ended")
        loop.close()
