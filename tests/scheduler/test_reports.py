"""What the scheduler tells of what is stored: no more than it is asked for."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.protocol import dumps

from daskref.client import inventory
from daskref.connectors.base import Key
from daskref.connectors.space import Footprint
from daskref.scheduler import _reports
from daskref.scheduler._reports import Reports
from daskref.scheduler._state import State
from daskref.scheduler.asking import survey
from daskref.scheduler.dashboard.sampling import HOLDERS, ROWS
from daskref.store.metrics import Counters
from tests.support.sites import A, B, C, Site

NOTHING, HANGS = object(), object()


class Scheduler:
    """One without tasks; what it tells clients is kept."""

    def __init__(self) -> None:
        self.tasks: dict[Any, Any] = {}
        self.workers: dict[str, Any] = {}
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.events: list[tuple[float, Any]] = []
        self.told: list[tuple[str, str]] = []

    def get_events(self, topic: str) -> tuple[tuple[float, Any], ...]:
        assert topic == "daskref"
        return tuple(self.events)

    def report(self, message: dict[str, Any], client: str) -> None:
        self.told.append((client, message["op"]))

    def rpc(self, worker: str) -> Any:
        return Rpc(self, worker)


class Rpc:
    """A worker that answers as the scheduler's table says, or never."""

    def __init__(self, scheduler: Scheduler, worker: str) -> None:
        self.scheduler = scheduler
        self.worker = worker

    def __getattr__(self, op: str) -> Any:
        async def ask(**message: Any) -> Any:
            self.scheduler.asked.append({"op": op, **message})
            answer = self.scheduler.answers.get((self.worker, op), NOTHING)
            if answer is HANGS:
                await asyncio.Event().wait()
            if answer is NOTHING:
                raise OSError(f"{self.worker} is gone")
            return answer(message) if callable(answer) else answer

        return ask


class Session:
    """One of a scheduler whose store cannot tell what objects take up."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.store = None

    def report(self) -> dict[str, Any]:
        return {"process": "scheduler"}

    async def run(self, func: Any, *args: Any) -> Any:
        return func(*args)


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


def make(scheduler: Any, state: State, clients: tuple[str, ...] = ()) -> Reports:
    session: Any = Session()
    return Reports(scheduler, session, state, clients)


def key(number: int) -> Key:
    return f"{number:032x}", 1000 + number, A


def test_few_of_many_objects_and_few_of_many_holders(scheduler: Scheduler) -> None:
    site = Site(home="")
    for number in range(100_000):
        site.put(key(number))
        site.hold("key", f"task-{number}", key(99_999))
    found = asyncio.run(make(scheduler, site.state).largest(ROWS, HOLDERS))
    assert [record["nbytes"] for record, _ in found] == [
        1000 + 99_999 - n for n in range(ROWS)
    ]
    largest, holders = found[0]
    assert holders == 100_001
    assert len(largest["keys"]) + len(largest["clients"]) == HOLDERS
    assert sum(map(len, dumps(found))) < 20_000


def test_all_holders_are_told_to_who_lists_objects(scheduler: Scheduler) -> None:
    site = Site(home="")
    for number in range(200):
        site.hold("key", f"task-{number}", key(1))
    told = asyncio.run(make(scheduler, site.state).objects(10))
    (found,) = told["objects"]
    assert len(found["keys"]) == 200


def test_one_worker_of_each_host_tells_what_objects_take_up(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "ANSWER", 0.01)
    monkeypatch.setattr(survey, "PART", 2)
    site = Site()
    for name, host in (("a", A), ("b1", B), ("b2", B), ("c", C)):
        site.worker(name, host)
    for number in range(5):
        site.put(key(number))
    site.put((key(9)[0], 9, C))
    site.ask("b1", key(0))
    site.fetched("b1", key=key(0))
    here = Footprint(4096, 0, 1, 7)
    scheduler.answers = {
        ("a", "daskref_footprints"): lambda msg: [list(here) for _ in msg["keys"]],
        ("b1", "daskref_footprints"): HANGS,
        ("b2", "daskref_footprints"): [[0, 8192, None, -7]],
        ("c", "daskref_footprints"): HANGS,
    }
    told = asyncio.run(make(scheduler, site.state).objects(10))
    places = {each["object"]: each["places"] for each in told["objects"]}
    assert places[key(0)] == {A: list(here), B: [0, 8192, None, -7]}
    assert places[key(1)] == {A: list(here)}
    assert places[key(9)[0], 9, C] == {C: None}  # nobody there answers
    asked = [len(m["keys"]) for m in scheduler.asked if m["op"] == "daskref_footprints"]
    assert max(asked) == 2


def test_reads_of_many_objects_are_asked_of_many_workers_for_the_largest_only(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "FEW", 2)
    monkeypatch.setattr(survey, "AT_ONCE", 3)
    site = Site(home="")
    for number in range(5):
        site.put(key(number))
    scheduler.workers = dict.fromkeys("abcd")
    told = asyncio.run(make(scheduler, site.state).objects(10))
    assert [each["hits"] for each in told["objects"]] == [0, 0, None, None, None]
    asked = [m["names"] for m in scheduler.asked if m["op"] == "daskref_reads"]
    assert [len(names) for names in asked] == [2] * 4


def test_reads_of_all_processes_add_up(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "ANSWER", 0.01)
    site = Site(home="")
    site.put(key(1))
    name = key(1)[0]
    scheduler.workers = dict.fromkeys(("w1", "w2", "same as w2", "hangs", "left"))
    counted = {"process": "2", "reads": {name: 2, "unknown": 9}}
    scheduler.answers = {
        ("w1", "daskref_reads"): {"process": "1", "reads": {name: 1}},
        ("w2", "daskref_reads"): counted,
        ("same as w2", "daskref_reads"): counted,
        ("hangs", "daskref_reads"): HANGS,
    }
    reports = make(scheduler, site.state)
    told = asyncio.run(reports.objects(10))
    assert told["objects"][0]["hits"] == 3
    assert set(told["processes"]) == {"scheduler", "1", "2"}
    (asked, *_) = [m for m in scheduler.asked if m["op"] == "daskref_reads"]
    assert asked["names"] == [name]


@pytest.mark.parametrize("page", [1, 2, 3, 7, 100])
def test_a_listing_in_pages_has_each_object_once(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(inventory, "PAGE", page)
    site = Site(home="")
    for number in range(20):
        site.put((key(number)[0], 1000 + number // 4, A))  # four of each size
    reports = make(scheduler, site.state)
    rpc: Any = SimpleNamespace(daskref_objects=reports.objects)
    found = asyncio.run(inventory.ask_objects(rpc))
    sizes = [each.nbytes for each in found]
    assert sizes == sorted(sizes, reverse=True)
    assert {each.key for each in found} == {key(number)[0] for number in range(20)}
    assert len(found) == 20
    assert [*asyncio.run(inventory.ask_objects(rpc, 9))] == [
        each._replace(age=pytest.approx(each.age, abs=60)) for each in found[:9]
    ]


def test_few_holders_are_told_to_who_wants_few(scheduler: Scheduler) -> None:
    site = Site(home="")
    for number in range(200):
        site.hold("key", f"task-{number}", key(1))
    (found,) = asyncio.run(make(scheduler, site.state).objects(10, 50))["objects"]
    assert len(found["keys"]) == 50


def test_transfers_that_were_and_that_are(scheduler: Scheduler) -> None:
    site = Site()
    site.worker("a", A)
    site.worker("b", B)
    site.put(key(1))
    site.put(key(2))
    reports = make(scheduler, site.state)
    assert reports.transfers(ROWS) == {"hosts": [], "now": [], "moving": 0}
    assert site.ask("b", key(1))["status"] == "found"
    told = reports.transfers(ROWS)
    (now,) = told["now"]
    assert now == {
        "key": key(1)[0],
        "nbytes": key(1)[1],
        "source": "the host of a",
        "host": "the host of b",
    }
    assert (told["hosts"], told["moving"]) == ([], 1)
    site.fetched("b", key=key(1))
    told = reports.transfers(ROWS)
    assert (told["now"], told["moving"]) == ([], 0)
    moved = {each.pop("host"): each for each in told["hosts"]}
    nbytes = key(1)[1]
    assert moved == {
        "the host of a": {"sent": nbytes, "received": 0, "fetched": 0},
        "the host of b": {"sent": 0, "received": nbytes, "fetched": 1},
    }


def test_few_of_many_transfers(scheduler: Scheduler) -> None:
    site = Site()
    site.worker("a", A)
    for number in range(100):
        site.worker(f"w{number}", f"host {number}")
        site.put(key(number))
        site.ask(f"w{number}", key(number))
    told = make(scheduler, site.state).transfers(ROWS)
    assert (len(told["now"]), told["moving"]) == (ROWS, 100)
    for number in range(100):
        site.fetched(f"w{number}", key=key(number))
    told = make(scheduler, site.state).transfers(ROWS)
    assert len(told["hosts"]) == ROWS


def test_the_schedulers_host_has_its_name(scheduler: Scheduler) -> None:
    site = Site()
    site.worker("a", site.home)
    site.put((key(1)[0], 1, site.home))
    told = asyncio.run(make(scheduler, site.state).objects(1))
    (found,) = told["objects"]
    assert found["hosts"] == [socket.gethostname()]


def test_warnings_are_events_that_ask_for_something(scheduler: Scheduler) -> None:
    fallback = {"action": "fallback", "reason": "no room", "worker": "w"}
    lost = {"action": "remove-host", "host": "a", "lost": 3}
    scheduler.events = [
        (1.0, {"action": "open"}),
        (2.0, fallback),
        (3.0, {"action": "remove-host", "host": "b", "lost": 0}),
        (4.0, lost),
        (5.0, "anything"),
        (6.0, {}),
    ]
    reports = make(scheduler, State())
    assert reports.warnings(ROWS) == [(4.0, lost), (2.0, fallback)]
    assert reports.warnings(1) == [(4.0, lost)]


def test_clients_are_asked_what_they_have_counted(scheduler: Scheduler) -> None:
    reports = make(scheduler, State(), ("one", "two"))
    asyncio.run(reports.processes())
    assert scheduler.told == [("one", "daskref-count"), ("two", "daskref-count")]
    reports.add({"process": "p", "puts": 1}, client="one")
    reports.add({"process": "p", "puts": 2}, client="one")
    counted = asyncio.run(reports.processes())
    assert [each for each in counted if each["process"] == "p"] == [
        {"process": "p", "puts": 2}
    ]


def test_who_asks_again_and_again_gets_sizes_that_cost_a_share_of_a_core(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(_reports, "time", SimpleNamespace(monotonic=lambda: now))
    reports = make(scheduler, State())
    looks: list[float] = []

    async def stored() -> dict[str, Any]:
        looks.append(now)
        return {"place": "", "seconds": 0.5}

    reports._stored = stored  # type: ignore[method-assign]

    def look(share: float | None = None) -> None:
        asyncio.run(reports.stores(share))

    look(0.02)  # the next one in 25 s
    now = 124.0
    look(0.02)
    assert looks == [100]
    look()
    assert looks == [100, 124]
    now = 148.0
    look(0.02)
    now = 150.0
    look(0.02)
    assert looks == [100, 124, 150]
