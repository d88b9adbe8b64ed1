"""Which hosts there are, what they are told to delete, and when they serve."""

from __future__ import annotations

from typing import Any

import pytest

from daskref.scheduler._state import FORGOTTEN, SCHEDULER
from tests.support.sites import KEY, OTHER, A, B, C, Site, check


class TestEvict:
    def test_reaches_each_host_once(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("neighbour", A)
        site.worker("two", B)
        site.put(KEY)
        site.put(OTHER)
        site.fetched("two")
        site.fetched(SCHEDULER)
        site.release("client", "client")
        told = dict(site.told("daskref-evict"))
        assert told == {
            "one": {"objects": [KEY, OTHER]},
            "two": {"objects": [KEY]},
        }
        assert site.evicted_here == [KEY]
        assert not site.copies()

    def test_by_a_client_where_there_is_no_worker(self, site: Site) -> None:
        site.client("client", A)
        site.hold("key", "task")  # nobody had told of it
        site.release("key", "task")
        assert site.told("daskref-evict") == [("client", {"objects": [KEY]})]

    def test_of_a_host_of_which_nobody_is_left(self, site: Site) -> None:
        site.hold("key", "task")
        site.release("key", "task")
        assert site.deleted == [KEY]
        assert not site.sent
        assert not site.copies()


class TestReconcile:
    def test_other_hosts_delete_what_nobody_knows(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY)
        site.reconcile()
        assert dict(site.told("daskref-sweep")) == {
            "one": {"known": [KEY[0]], "grace": 7.0},
            "two": {"known": [], "grace": 7.0},
        }

    def test_what_is_not_held_is_known_once_more(self, site: Site) -> None:
        site.worker("one", A)
        site.fetched("one")
        for known in ([KEY[0]], [KEY[0]], []):
            site.reconcile()
            assert site.told("daskref-sweep")[0][1]["known"] == known
        site.reconcile()
        assert not site.state.objects

    def test_refusals_of_what_nobody_holds_are_forgotten(self, site: Site) -> None:
        site.client("client", A)
        site.worker("two", B)
        site.source("two")
        site.supplied("client", None)
        assert site.state.objects[KEY].refused
        site.reconcile()
        assert not site.state.objects[KEY].refused
        site.fetched("two", copied=False)
        site.reconcile()
        assert not site.state.objects

    def test_copies_are_known_by_name_when_a_worker_comes_back(
        self, site: Site
    ) -> None:
        site.worker("one", A)
        site.put(KEY, "key", "task")
        site.stop("one")
        assert not site.copies()
        assert site.lost()
        site.worker("again", A, names=(KEY[0], "3" * 32))
        assert site.copies() == [A]
        assert not site.lost()
        assert list(site.state.hosts.keys(A)) == [KEY]

    def test_what_was_asked_for_while_a_host_was_away_is_known(
        self, site: Site
    ) -> None:
        """Or the host would sweep it."""
        site.worker("two", B)
        site.hold("key", "task")
        assert site.source("two")["status"] == "none"
        site.worker("one", A, names=(KEY[0],))
        site.reconcile()
        told = dict(site.told("daskref-sweep"))
        assert told["one"]["known"] == [KEY[0]]
        site.stop("one")
        assert not site.copies()

    def test_workers_of_a_host_that_serve_come_first(self, site: Site) -> None:
        site.worker("silent", A, serves=False)
        site.client("client", A)
        site.worker("one", A)
        hosts = site.state.hosts
        assert hosts.on(A) == ("one", "silent", "client")
        assert hosts.on(A, "worker") == ("one", "silent")
        assert hosts.on(A, "client") == ("client",)
        assert hosts.on(B) == ()
        assert hosts.endpoints(A) == ["tcp://one:1"]
        assert hosts.endpoints(B) == []
        assert hosts.host_of("client") == A
        assert hosts.host_of("nobody") is None


class TestHosts:
    def test_clients_hear_of_hosts(self, site: Site) -> None:
        site.client("client", A)
        site.worker("two", B)
        told: dict[str, Any] = {"host": B, "endpoints": ["tcp://two:1"]}
        told["workers"] = True
        assert site.told("daskref-hosts") == [("client", told)]
        site.stop("two")
        told = {"host": B, "endpoints": [], "workers": False}
        assert site.told("daskref-hosts") == [("client", told)]

    def test_a_client_with_a_new_directory_leaves_its_old_host(
        self, site: Site
    ) -> None:
        site.client("client", A)
        site.client("client", B)
        assert list(site.state.hosts.hosts) == [site.home, B]
        assert site.state.hosts.host_of("client") == B

    def test_dasks_log_tells_of_hosts_and_of_what_they_take(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("neighbour", A)
        site.worker("two", B)
        site.put(KEY)
        site.put(OTHER)
        site.fetched("two")
        site.stop("one")
        come = [
            {"action": "add-host", "host": f"the host of {name}"}
            for name in ("one", "two")
        ]
        assert site.logged == come
        site.stop("neighbour")
        gone = {"action": "remove-host", "host": "the host of one", "lost": 1}
        assert site.logged == [*come, gone]

    def test_nothing_is_left_when_all_have_left(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.client("client", C)
        site.put(KEY)
        assert site.source("two")["status"] == "found"
        for name in ("one", "two", "client"):
            site.release("client", name)
            site.stop(name)
        assert site.lost() == [KEY]  # others may ask what became of it, for a while
        site.pass_time(FORGOTTEN + 1)
        site.reconcile()
        assert not site.state.objects
        assert not site.state.held
        assert list(site.state.hosts.hosts) == [site.home]
        assert list(site.state.hosts.processes) == [SCHEDULER]
        check(site.state)


class TestLazily:
    def test_one_host_does_not_serve(self, lazy: Site) -> None:
        lazy.worker("one", lazy.home, serves=False)
        lazy.worker("neighbour", lazy.home, serves=False)
        lazy.client("client", lazy.home)
        assert not lazy.told("daskref-serve")

    def test_the_schedulers_host_alone_is_nothing_to_serve(self, lazy: Site) -> None:
        lazy.worker("one", A, serves=False)
        assert not lazy.told("daskref-serve")

    def test_clients_hear_of_workers_beside_them_that_do_not_serve(
        self, lazy: Site
    ) -> None:
        lazy.client("client", A)
        lazy.worker("one", A, serves=False)
        told = {"host": A, "endpoints": [], "workers": True}
        assert lazy.told("daskref-hosts") == [("client", told)]
        lazy.stop("one")
        told["workers"] = False
        assert lazy.told("daskref-hosts") == [("client", told)]

    def test_all_serve_once_there_is_a_second_host(self, lazy: Site) -> None:
        lazy.worker("one", A, serves=False)
        lazy.worker("two", B, serves=False)
        assert dict(lazy.told("daskref-serve")) == {"one": {}, "two": {}}
        lazy.worker("one", A)
        lazy.worker("two", B)
        assert not lazy.told("daskref-serve")
        lazy.worker("three", C, serves=False)
        assert lazy.told("daskref-serve") == [("three", {})]

    def test_readers_wait_until_their_source_serves(self, lazy: Site) -> None:
        lazy.worker("one", A, serves=False)
        lazy.put(KEY, "key", "task")
        lazy.worker("two", B, serves=False)
        assert lazy.source("two") == {"status": "queued"}
        lazy.worker("one", A)
        assert lazy.source("two")["host"] == A

    @pytest.mark.parametrize("how", ["fails", "leaves"])
    def test_readers_do_not_wait_for_who_cannot_serve(
        self, lazy: Site, how: str
    ) -> None:
        lazy.worker("one", A, serves=False)
        lazy.put(KEY, "key", "task")
        lazy.worker("two", B, serves=False)
        lazy.told("daskref-serve")
        if how == "fails":
            lazy.worker("one", A, serves=False)
            assert lazy.source("two") == {"status": "none"}
        else:
            lazy.stop("one")
            assert lazy.source("two")["status"] == "lost"
        lazy.worker("two", B)
        # and it is not asked again for that
        assert not lazy.told("daskref-serve")
        assert not lazy.state.starting
