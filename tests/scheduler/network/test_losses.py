"""What the scheduler does about objects whose hosts are gone."""

from __future__ import annotations

import pytest

from daskref.scheduler import _losses, _table
from tests.support.sites import HOSTS, KEY, A, B, C, Site


class TestLosses:
    def test_results_are_computed_again(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.result("task")
        site.stop("one")
        assert site.recomputed == ["task"]
        answer = site.source("two")
        assert (answer["status"], answer["recomputed"]) == ("lost", True)
        assert "host the host of one, which is gone" in answer["reason"]

    def test_what_is_being_computed_again_is_left_alone(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.result("task")
        # as the plugin does, before it hears that the worker has left
        site.hold("lost", "task", computable=True)
        site.release("result", "task")
        site.stop("one")
        assert not site.recomputed
        assert site.source("two")["recomputed"]

    def test_a_new_result_is_not_released_for_its_predecessor(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.result("task")
        site.hold("lost", "task", computable=True)
        site.release("result", "task")
        assert site.source("two", last=True)["recomputed"]
        assert not site.recomputed

    def test_another_process_of_the_host_keeps_it(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("neighbour", A)
        site.worker("two", B)
        site.result("task")
        site.stop("one")
        assert not site.recomputed
        assert site.source("two")["endpoints"] == ["tcp://neighbour:1"]

    def test_a_copy_elsewhere_keeps_it(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.worker("three", C)
        site.result("task")
        site.fetched("two")
        site.stop("one")
        assert not site.recomputed
        assert site.source("three")["host"] == B

    def test_a_client_that_holds_it_sends_it_again(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.client("client", C)
        site.put(KEY)
        site.stop("one")
        assert site.told("daskref-wanted") == [("client", {"object": KEY})]
        assert site.source("two") == {"status": "queued"}
        assert not site.told("daskref-wanted")
        site.worker("three", HOSTS["d"])
        site.supplied("client", B)
        assert site.source("three")["host"] == B
        obj = site.state.objects[KEY]
        assert (obj.sought, obj.refused, obj.lost) == (None, frozenset(), None)

    def test_the_next_client_is_asked_if_one_refuses(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        for name in ("client", "second"):
            site.client(name, C)
            site.put(KEY, "client", name)
        site.stop("one")
        ((first, _),) = site.told("daskref-wanted")
        site.supplied(first, None)
        ((second, _),) = site.told("daskref-wanted")
        assert {first, second} == {"client", "second"}
        site.supplied(second, None)
        assert not site.told("daskref-wanted")
        answer = site.source("two")
        assert answer["status"] == "lost"
        assert not answer["recomputed"]
        assert "the host of one, which is gone" in answer["reason"]

    def test_the_next_client_is_asked_if_one_leaves(self, site: Site) -> None:
        site.worker("one", A)
        for name in ("client", "second"):
            site.client(name, C)
            site.put(KEY, "client", name)
        site.stop("one")
        ((first, _),) = site.told("daskref-wanted")
        site.release("client", first)
        site.stop(first)
        assert [who for who, _ in site.told("daskref-wanted")] == [
            {"client": "second", "second": "client"}[first]
        ]

    def test_the_next_client_is_asked_if_one_is_silent(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        for name in ("client", "second"):
            site.client(name, C)
            site.put(KEY, "client", name)
        site.stop("one")
        ((first, _),) = site.told("daskref-wanted")
        site.pass_time(_losses.SUPPLY)
        assert site.source("two") == {"status": "queued"}
        ((second, _),) = site.told("daskref-wanted")
        assert {first, second} == {"client", "second"}
        # better late than never
        site.supplied(first, B)
        assert site.copies() == [B]

    def test_who_refused_is_asked_again_once_there_is_a_host(self, site: Site) -> None:
        site.worker("one", A)
        site.client("client", C)
        site.put(KEY)
        site.stop("one")
        site.told("daskref-wanted")
        site.supplied("client", None)
        site.worker("two", B)
        assert site.told("daskref-wanted") == [("client", {"object": KEY})]

    def test_a_client_whose_host_nobody_serves_is_asked_for_it(
        self, site: Site
    ) -> None:
        site.client("client", A)
        site.put(KEY)
        site.worker("two", B)
        assert site.told("daskref-wanted") == [("client", {"object": KEY})]

    def test_a_client_beside_what_lives_by_a_lease_is_asked_for_it(
        self, site: Site
    ) -> None:
        site.client("client", A)
        site.worker("two", B)
        site.worker("three", C)
        assert site.source("three") == {"status": "queued"}
        assert site.told("daskref-wanted") == [("client", {"object": KEY})]
        site.supplied("client", B)
        # it never had a holder: that nobody holds it means nothing
        assert not site.told("daskref-evict")
        assert site.source("three")["host"] == B

    def test_a_worker_is_no_client_that_could_send_it(self, site: Site) -> None:
        site.worker("one", A, serves=False)
        site.worker("two", B)
        site.put(KEY, "key", "task")
        answer = site.source("two")
        assert answer == {"status": "none"}
        assert site.state.objects[KEY].sought is None
        assert not site.told("daskref-wanted")

    def test_what_is_released_while_it_is_sent_goes(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.client("client", C)
        site.put(KEY)
        site.stop("one")
        site.release("client", "client")
        site.told("daskref-evict")
        site.supplied("client", B)
        assert site.told("daskref-evict") == [("two", {"objects": [KEY]})]
        assert not site.state.objects

    def test_a_message_that_outlives_its_host(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.stop("one")
        site.result("task")
        assert site.recomputed == ["task"]
        assert "host aaaaaaaa, which is gone" in site.source("two")["reason"]

    def test_a_message_that_outlives_its_host_but_not_the_object(
        self, site: Site
    ) -> None:
        site.worker("one", A)
        site.worker("two", B)
        assert site.source("two")["host"] == A
        site.fetched("two")
        site.stop("one")
        site.result("task")
        assert not site.recomputed
        assert site.copies() == [B]

    def test_what_nobody_holds_is_forgotten(self, site: Site) -> None:
        site.worker("one", A)
        site.fetched("one")
        site.stop("one")
        assert not site.copies()
        assert not site.lost()

    def test_not_all_that_was_lost_is_remembered(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_table, "REMEMBERED", 2)
        site.worker("one", A)
        keys = [(f"{n:032x}", 8, A) for n in range(4)]
        for n, key in enumerate(keys):
            site.result(n, key)
        site.stop("one")
        assert site.lost() == keys[2:]

    def test_a_copy_makes_up_for_a_loss(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.worker("three", C)
        site.result("task")
        site.stop("one")
        site.fetched("two")  # its last bytes had come
        assert site.source("three")["host"] == B
        assert not site.lost()
