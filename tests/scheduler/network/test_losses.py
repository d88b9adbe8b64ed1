"""What the scheduler does about objects whose hosts are gone."""

from __future__ import annotations

import pytest

from daskref.scheduler import _losses as losses
from daskref.scheduler._holders import Holder
from tests.support.sites import HOSTS, KEY, A, B, C, Site, bookkeeping, run


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
