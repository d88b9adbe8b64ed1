"""Which hosts there are, what they are told to delete, and when they serve."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from daskref.scheduler import _network as module
from daskref.scheduler._holders import Holder
from daskref.scheduler._network import SCHEDULER
from tests.support.sites import KEY, OTHER, A, B, C, Site, bookkeeping, run


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

    def test_one_worker_of_each_other_host_can_be_asked(self, site: Site) -> None:
        site.worker("here", site.home)
        site.worker("one", A)
        site.worker("neighbour", A)
        run(lambda: site.client("client", A))
        site.worker("two", B, serves=False)
        assert site.network.workers_elsewhere() == [["one", "neighbour"], ["two"]]


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

    def test_dasks_log_tells_of_hosts_and_of_what_they_take(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("neighbour", A)
        site.worker("two", B)
        site.put(KEY)
        site.put(OTHER)
        site.network.on_fetched(KEY, True, worker="two")
        site.stop("one")
        come = [
            {"action": "add-host", "host": f"the host of {name}"}
            for name in ("one", "two")
        ]
        assert site.scheduler.events == come
        site.stop("neighbour")
        gone = {"action": "remove-host", "host": "the host of one", "lost": 1}
        assert site.scheduler.events == [*come, gone]

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
