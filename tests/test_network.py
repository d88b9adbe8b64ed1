"""What the scheduler does for hosts that are apart, without Dask and without hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from daskref.connectors import ZmqConnector
from daskref.plugins import losses
from daskref.plugins import network as module
from daskref.plugins.holders import Holder, Holders
from daskref.plugins.network import SCHEDULER, Network

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

    def worker_send(self, worker: str, message: dict[str, Any]) -> None:
        assert worker in self.workers
        self.sent.append((worker, message))

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


def run(test: Callable[[], Any]) -> Any:
    return asyncio.run(test())


def bookkeeping(network: Network) -> list[Any]:
    """Return all tables of a network that are not about hosts."""
    losses = network.losses
    return [losses._sought, losses._refused, network._starting, network._strays]


class TestSource:
    def test_found_with_where_the_host_serves(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY)
        answer = run(lambda: site.source("two"))
        endpoints = ["tcp://one:1"]
        assert answer == {"status": "found", "host": A, "endpoints": endpoints}

    def test_queued_while_those_who_have_it_are_busy(self, site: Site) -> None:
        async def test() -> None:
            for name, host in zip(["one", "two", "three", "four"], "abcd", strict=True):
                site.worker(name, HOSTS[host])
            site.put(KEY)
            assert (await site.source("two"))["status"] == "found"
            assert (await site.source("three"))["status"] == "found"
            assert await site.source("four") == {"status": "queued"}
            site.network.on_fetched(KEY, True, worker="two")
            assert (await site.source("four"))["host"] == B

        run(test)

    def test_none_once_all_who_have_it_have_failed(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY)
        failed = ["tcp://one:1"]
        assert run(lambda: site.source("two", failed=failed)) == {"status": "none"}

    @pytest.mark.parametrize("last", [False, True])
    def test_who_has_left_is_told_so(self, site: Site, last: bool) -> None:
        site.worker("one", A)
        site.put(KEY)
        assert run(lambda: site.source("two", last=last)) == {"status": "left"}

    def test_what_nobody_has_told_of_is_where_it_was_put(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        assert run(lambda: site.source("two"))["host"] == A
        assert site.network.copies("two", KEY) == [(A, ["tcp://one:1"])]

    def test_who_gives_up_is_told_who_did_not_give_it(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY, "key", "task")
        answer = run(lambda: site.source("two", last=True))
        assert answer["status"] == "lost"
        assert not answer["recomputed"]
        assert A[:8] in answer["reason"]
        assert "8 B" in answer["reason"]
        assert not site.scheduler.recommended

    def test_a_result_that_nobody_gives_is_computed_again(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.result("task")
        for _ in range(2):
            answer = run(lambda: site.source("two", last=True))
            assert answer["recomputed"]
        assert site.scheduler.recommended == [{"task": "released"}]

    def test_scattered_data_is_not_computed_again(self, site: Site) -> None:
        """Its readers would be told so forever."""
        site.worker("one", A)
        site.worker("two", B)
        site.result("task", run_spec=None)
        answer = run(lambda: site.source("two", last=True))
        assert not answer["recomputed"]
        assert not site.scheduler.recommended

    def test_the_scheduler_itself_may_ask_and_tell(self, site: Site) -> None:
        async def test() -> None:
            site.worker("one", A)
            site.put(KEY)
            loop = SimpleNamespace(
                asyncio_loop=asyncio.get_running_loop(),
                add_callback=lambda callback, **rest: callback(**rest),
            )
            locator = site.network.locator(loop)
            found = await asyncio.to_thread(locator.sources, KEY, lambda: None)
            assert [each.host for each in found] == [A]
            assert locator.copies(KEY)[0].host == A  # it may not wait here
            copies = await asyncio.to_thread(locator.copies, KEY)
            assert [each.host for each in copies] == [A]
            locator.ended(KEY, True)
            assert site.network.locations.copies(KEY) == [A, site.home]

        run(test)


class TestLosses:
    def test_results_are_computed_again(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.result("task")
        site.stop("one")
        assert site.scheduler.recommended == [{"task": "released"}]
        answer = run(lambda: site.source("two"))
        assert (answer["status"], answer["recomputed"]) == ("lost", True)
        assert "host the host of one, which is gone" in answer["reason"]

    def test_what_is_being_computed_again_is_left_alone(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.result("task")
        # as the plugin does, before it hears that the worker has left
        site.holders.hold(Holder("lost", "task"), KEY, 8)
        site.holders.release(Holder("result", "task"))
        site.scheduler.tasks["task"].state = "processing"
        site.stop("one")
        assert not site.scheduler.recommended
        assert run(lambda: site.source("two"))["recomputed"]

    def test_a_new_result_is_not_released_for_its_predecessor(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.result("task")
        site.holders.hold(Holder("lost", "task"), KEY, 8)
        site.holders.release(Holder("result", "task"))
        assert run(lambda: site.source("two", last=True))["recomputed"]
        assert not site.scheduler.recommended

    def test_another_process_of_the_host_keeps_it(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("neighbour", A)
        site.worker("two", B)
        site.result("task")
        site.stop("one")
        assert not site.scheduler.recommended
        assert run(lambda: site.source("two"))["endpoints"] == ["tcp://neighbour:1"]

    def test_a_copy_elsewhere_keeps_it(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.worker("three", C)
        site.result("task")
        site.network.on_fetched(KEY, True, worker="two")
        site.stop("one")
        assert not site.scheduler.recommended
        assert run(lambda: site.source("three"))["host"] == B

    def test_a_client_that_holds_it_sends_it_again(self, site: Site) -> None:
        async def test() -> None:
            site.worker("one", A)
            site.worker("two", B)
            await site.client("client", C)
            site.put(KEY)
            site.stop("one")
            assert site.told("daskref-wanted") == [("client", {"object": KEY})]
            assert await site.source("two") == {"status": "queued"}
            assert not site.told("daskref-wanted")
            site.worker("three", HOSTS["d"])
            site.network.losses.on_supplied("client", KEY, B)
            assert (await site.source("three"))["host"] == B
            assert not any(bookkeeping(site.network))
            assert not len(site.network.losses)

        run(test)

    def test_the_next_client_is_asked_if_one_refuses(self, site: Site) -> None:
        async def test() -> None:
            site.worker("one", A)
            site.worker("two", B)
            for name in ("client", "second"):
                await site.client(name, C)
                site.put(KEY, "client", name)
            site.stop("one")
            ((first, _),) = site.told("daskref-wanted")
            site.network.losses.on_supplied(first, KEY, None)
            ((second, _),) = site.told("daskref-wanted")
            assert {first, second} == {"client", "second"}
            site.network.losses.on_supplied(second, KEY, None)
            assert not site.told("daskref-wanted")
            answer = await site.source("two")
            assert answer["status"] == "lost"
            assert not answer["recomputed"]
            assert "the host of one, which is gone" in answer["reason"]

        run(test)

    def test_the_next_client_is_asked_if_one_leaves(self, site: Site) -> None:
        async def test() -> None:
            site.worker("one", A)
            for name in ("client", "second"):
                await site.client(name, C)
                site.put(KEY, "client", name)
            site.stop("one")
            ((first, _),) = site.told("daskref-wanted")
            site.holders.release(Holder("client", first))
            site.stop(first)
            assert [who for who, _ in site.told("daskref-wanted")] == [
                {"client": "second", "second": "client"}[first]
            ]

        run(test)

    def test_the_next_client_is_asked_if_one_is_silent(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def test() -> None:
            site.worker("one", A)
            site.worker("two", B)
            for name in ("client", "second"):
                await site.client(name, C)
                site.put(KEY, "client", name)
            site.stop("one")
            ((first, _),) = site.told("daskref-wanted")
            monkeypatch.setattr(losses, "_SUPPLY", 0.0)
            assert await site.source("two") == {"status": "queued"}
            ((second, _),) = site.told("daskref-wanted")
            assert {first, second} == {"client", "second"}
            # better late than never
            site.network.losses.on_supplied(first, KEY, B)
            assert site.network.locations.copies(KEY) == [B]

        run(test)

    def test_who_refused_is_asked_again_once_there_is_a_host(self, site: Site) -> None:
        async def test() -> None:
            site.worker("one", A)
            await site.client("client", C)
            site.put(KEY)
            site.stop("one")
            site.told("daskref-wanted")
            site.network.losses.on_supplied("client", KEY, None)
            site.worker("two", B)
            assert site.told("daskref-wanted") == [("client", {"object": KEY})]

        run(test)

    def test_a_client_whose_host_nobody_serves_is_asked_for_it(
        self, site: Site
    ) -> None:
        async def test() -> None:
            await site.client("client", A)
            site.put(KEY)
            site.worker("two", B)
            assert site.told("daskref-wanted") == [("client", {"object": KEY})]

        run(test)

    def test_a_client_beside_what_lives_by_a_lease_is_asked_for_it(
        self, site: Site
    ) -> None:
        async def test() -> None:
            await site.client("client", A)
            site.worker("two", B)
            site.worker("three", C)
            assert await site.source("three") == {"status": "queued"}
            assert site.told("daskref-wanted") == [("client", {"object": KEY})]
            site.network.losses.on_supplied("client", KEY, B)
            # it never had a holder: that nobody holds it means nothing
            assert not site.told("daskref-evict")
            assert (await site.source("three"))["host"] == B

        run(test)

    def test_a_worker_is_no_client_that_could_send_it(self, site: Site) -> None:
        async def test() -> None:
            site.worker("one", A, serves=False)
            site.worker("two", B)
            site.put(KEY, "key", "task")
            answer = await site.source("two")
            assert answer == {"status": "none"}
            assert not site.network.losses._sought
            assert not site.told("daskref-wanted")

        run(test)

    def test_what_is_released_while_it_is_sent_goes(self, site: Site) -> None:
        async def test() -> None:
            site.worker("one", A)
            site.worker("two", B)
            await site.client("client", C)
            site.put(KEY)
            site.stop("one")
            site.network.evict(site.holders.release(Holder("client", "client")))
            site.told("daskref-evict")
            site.network.losses.on_supplied("client", KEY, B)
            assert site.told("daskref-evict") == [("two", {"objects": [KEY]})]
            assert not any(bookkeeping(site.network))

        run(test)

    def test_a_message_that_outlives_its_host(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.stop("one")
        site.result("task")
        assert site.scheduler.recommended == [{"task": "released"}]
        assert (
            "host aaaaaaaa, which is gone" in run(lambda: site.source("two"))["reason"]
        )

    def test_a_message_that_outlives_its_host_but_not_the_object(
        self, site: Site
    ) -> None:
        site.worker("one", A)
        site.worker("two", B)
        assert run(lambda: site.source("two"))["host"] == A
        site.network.on_fetched(KEY, True, worker="two")
        site.stop("one")
        site.result("task")
        assert not site.scheduler.recommended
        assert site.network.locations.copies(KEY) == [B]

    def test_what_nobody_holds_is_forgotten(self, site: Site) -> None:
        site.worker("one", A)
        site.network.add(KEY)
        site.stop("one")
        assert KEY not in site.network.locations
        assert not len(site.network.losses)

    def test_not_all_that_was_lost_is_remembered(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(losses, "_REMEMBERED", 2)
        site.worker("one", A)
        keys = [(f"{n:032x}", 8, A) for n in range(4)]
        for n, key in enumerate(keys):
            site.result(n, key)
        site.stop("one")
        assert len(site.network.losses) == 2

    def test_a_copy_makes_up_for_a_loss(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.worker("three", C)
        site.result("task")
        site.stop("one")
        site.network.on_fetched(KEY, True, worker="two")  # its last bytes had come
        assert run(lambda: site.source("three"))["host"] == B
        assert not len(site.network.losses)


class TestEvict:
    def test_reaches_each_host_once(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("neighbour", A)
        site.worker("two", B)
        site.put(KEY)
        site.put(OTHER)
        site.network.on_fetched(KEY, True, worker="two")
        site.network.on_fetched(KEY, True)
        site.network.evict([KEY, OTHER])
        told = dict(site.told("daskref-evict"))
        assert told == {
            "one": {"objects": [KEY, OTHER]},
            "two": {"objects": [KEY]},
        }
        assert site.evicted_here == [KEY]
        assert KEY not in site.network.locations

    def test_by_a_client_where_there_is_no_worker(self, site: Site) -> None:
        async def test() -> None:
            await site.client("client", A)
            site.network.evict([KEY])  # nobody had told of it
            assert site.told("daskref-evict") == [("client", {"objects": [KEY]})]

        run(test)

    def test_of_a_host_of_which_nobody_is_left(self, site: Site) -> None:
        site.network.evict([KEY])
        assert not site.sent
        assert KEY not in site.network.locations


class TestReconcile:
    def test_other_hosts_delete_what_nobody_knows(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY)
        site.network.reconcile(7.0)
        assert dict(site.told("daskref-sweep")) == {
            "one": {"known": [KEY[0]], "grace": 7.0},
            "two": {"known": [], "grace": 7.0},
        }

    def test_what_is_not_held_is_known_once_more(self, site: Site) -> None:
        site.worker("one", A)
        site.network.add(KEY)
        for known in ([KEY[0]], [KEY[0]], []):
            site.network.reconcile(7.0)
            assert site.told("daskref-sweep")[0][1]["known"] == known
        site.network.reconcile(7.0)
        assert not any(bookkeeping(site.network))

    def test_refusals_of_what_nobody_holds_are_forgotten(self, site: Site) -> None:
        async def test() -> None:
            await site.client("client", A)
            site.worker("two", B)
            await site.source("two")
            site.network.losses.on_supplied("client", KEY, None)
            assert site.network.losses._refused
            for _ in range(3):
                site.network.reconcile(7.0)
            assert not any(bookkeeping(site.network))
            assert not list(site.network.locations)

        run(test)

    def test_copies_are_known_by_name_when_a_worker_comes_back(
        self, site: Site
    ) -> None:
        site.worker("one", A)
        site.put(KEY, "key", "task")
        site.stop("one")
        assert KEY not in site.network.locations
        assert len(site.network.losses)
        site.worker("again", A, names=(KEY[0], "3" * 32))
        assert site.network.locations.copies(KEY) == [A]
        assert not len(site.network.losses)
        assert site.network.locations.keys(A) == {KEY}

    def test_what_was_asked_for_while_a_host_was_away_is_known(
        self, site: Site
    ) -> None:
        """Or the host would sweep it."""
        site.worker("two", B)
        site.holders.hold(Holder("key", "task"), KEY, 8)
        assert run(lambda: site.source("two"))["status"] == "none"
        site.worker("one", A, names=(KEY[0],))
        site.network.reconcile(7.0)
        told = dict(site.told("daskref-sweep"))
        assert told["one"]["known"] == [KEY[0]]
        site.stop("one")
        assert KEY not in site.network.locations

    def test_total_counts_each_host_once(self, site: Site) -> None:
        stored = [(A, 2, 20), (A, 2, 20), (B, 1, 5), (site.home, 9, 9)]
        assert site.network.total(stored, (1, 3)) == (2 + 1 + 9, 20 + 5 + 9)


class TestHosts:
    def test_clients_hear_of_hosts(self, site: Site) -> None:
        async def test() -> None:
            nothing = {"hosts": {}, "home": site.home, "beside": False}
            assert await site.client("client", A) == nothing
            site.scheduler.clients["plain"] = SimpleNamespace()
            site.worker("two", B)
            told: dict[str, Any] = {"host": B, "endpoints": ["tcp://two:1"]}
            told["workers"] = True
            assert site.told("daskref-hosts") == [("client", told)]
            site.stop("two")
            told = {"host": B, "endpoints": [], "workers": False}
            assert site.told("daskref-hosts") == [("client", told)]

        run(test)

    def test_who_comes_later_is_told_all(self, site: Site) -> None:
        site.worker("one", A)
        answer = run(lambda: site.client("client", C))
        hosts = {A: ["tcp://one:1"]}
        assert answer == {"hosts": hosts, "home": site.home, "beside": False}
        assert run(lambda: site.client("second", A))["beside"]

    def test_a_worker_that_has_left_meanwhile_has_no_host(self, site: Site) -> None:
        site.on_host("one", A)
        assert site.network.locations.hosts() == [site.home]

    def test_a_client_with_a_new_directory_leaves_its_old_host(
        self, site: Site
    ) -> None:
        async def test() -> None:
            await site.client("client", A)
            await site.client("client", B)
            assert site.network.locations.hosts() == [site.home, B]
            assert site.network.locations.host_of("client") == B

        run(test)

    def test_nothing_is_left_when_all_have_left(self, site: Site) -> None:
        async def test() -> None:
            site.worker("one", A)
            site.worker("two", B)
            await site.client("client", C)
            site.put(KEY)
            assert (await site.source("two"))["status"] == "found"
            for name in ("one", "two", "client"):
                site.network.evict(site.holders.release(Holder("client", name)))
                site.stop(name)
            locations = site.network.locations
            assert locations.hosts() == [site.home]
            assert not any(bookkeeping(site.network))
            assert not any(
                [locations._copies, locations._grants, locations._waiting, *locations]
            )
            assert list(locations._host_of) == [SCHEDULER]

        run(test)


class TestLazily:
    def test_one_host_does_not_serve(self, lazy: Site) -> None:
        lazy.worker("one", lazy.home, serves=False)
        lazy.worker("neighbour", lazy.home, serves=False)
        run(lambda: lazy.client("client", lazy.home))
        assert not lazy.told("daskref-serve")

    def test_the_schedulers_host_alone_is_nothing_to_serve(self, lazy: Site) -> None:
        lazy.worker("one", A, serves=False)
        assert not lazy.told("daskref-serve")

    def test_clients_hear_of_workers_beside_them_that_do_not_serve(
        self, lazy: Site
    ) -> None:
        async def test() -> None:
            assert not (await lazy.client("client", A))["beside"]
            lazy.worker("one", A, serves=False)
            told = {"host": A, "endpoints": [], "workers": True}
            assert lazy.told("daskref-hosts") == [("client", told)]
            lazy.stop("one")
            told["workers"] = False
            assert lazy.told("daskref-hosts") == [("client", told)]

        run(test)

    def test_all_serve_once_there_is_a_second_host(self, lazy: Site) -> None:
        lazy.worker("one", A, serves=False)
        lazy.worker("two", B, serves=False)
        assert dict(lazy.told("daskref-serve")) == {"one": {}, "two": {}}
        lazy.on_host("one", A)
        lazy.on_host("two", B)
        assert not lazy.told("daskref-serve")
        lazy.worker("three", C, serves=False)
        assert lazy.told("daskref-serve") == [("three", {})]

    def test_a_client_on_a_second_host_waits_for_them(self, lazy: Site) -> None:
        async def test() -> None:
            lazy.worker("one", A, serves=False)
            visiting = asyncio.create_task(lazy.client("client", B))
            await asyncio.sleep(0)
            assert lazy.told("daskref-serve") == [("one", {})]
            assert not visiting.done()
            lazy.on_host("one", A)
            assert (await visiting)["hosts"] == {A: ["tcp://one:1"]}

        run(test)

    def test_a_client_goes_on_without_workers_that_do_not_begin(
        self, lazy: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_START", 0.0)
        lazy.worker("one", A, serves=False)
        assert run(lambda: lazy.client("client", B))["hosts"] == {}

    def test_readers_wait_until_their_source_serves(self, lazy: Site) -> None:
        async def test() -> None:
            lazy.worker("one", A, serves=False)
            lazy.put(KEY, "key", "task")
            lazy.worker("two", B, serves=False)
            assert await lazy.source("two") == {"status": "queued"}
            lazy.on_host("one", A)
            assert (await lazy.source("two"))["host"] == A

        run(test)

    @pytest.mark.parametrize("how", ["fails", "leaves"])
    def test_readers_do_not_wait_for_who_cannot_serve(
        self, lazy: Site, how: str
    ) -> None:
        async def test() -> None:
            lazy.worker("one", A, serves=False)
            lazy.put(KEY, "key", "task")
            lazy.worker("two", B, serves=False)
            lazy.told("daskref-serve")
            if how == "fails":
                lazy.on_host("one", A, serves=False)
                assert await lazy.source("two") == {"status": "none"}
            else:
                lazy.stop("one")
                assert (await lazy.source("two"))["status"] == "lost"
            lazy.on_host("two", B)
            # and it is not asked again for that
            assert not lazy.told("daskref-serve")
            assert not any(bookkeeping(lazy.network))

        run(test)
