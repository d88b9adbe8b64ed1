"""What processes have counted is kept when they end, in bounded space."""

from __future__ import annotations

from typing import Any

import pytest

from daskref.cluster.stats import summarize
from daskref.scheduler.asking import counts
from daskref.scheduler.asking.counts import OTHERS, Counts
from daskref.store.metrics import COUNTERS, INBAND


def report(process: int, host: str = "h", number: int = 1) -> dict[str, Any]:
    return {
        "process": str(process),
        "host": host,
        "inband": dict.fromkeys(INBAND, number),
        **dict.fromkeys(COUNTERS, number),
    }


@pytest.fixture
def connected() -> set[str]:
    return {"alive"}


@pytest.fixture
def made(connected: set[str], monkeypatch: pytest.MonkeyPatch) -> Counts:
    monkeypatch.setattr(counts, "ENDED", 10)
    monkeypatch.setattr(counts, "HOSTS", 3)
    return Counts(connected.__contains__)


def test_a_process_counts_as_it_last_reported(made: Counts) -> None:
    made.add("alive", report(1, number=1))
    made.add("alive", report(1, number=5))
    assert made.reports() == [report(1, number=5)]


def test_many_processes_that_have_ended_take_bounded_space(made: Counts) -> None:
    made.add("alive", report(-1))
    for process in range(1000):
        made.add(f"worker {process}", report(process))
        assert len(made.reports()) <= 1 + 1 + 2 * 10 + 1
    told = summarize(0, [], made.reports())
    assert told["gets"] == told["inband"]["gpu"] == 1001
    assert told["hosts"]["h"]["gets"] == 1001
    assert [each["process"] for each in made.reports()].count("-1") == 1


def test_the_last_that_ended_may_come_back(made: Counts) -> None:
    for process in range(100):
        made.add(f"worker {process}", report(process))
    made.add("worker 99", report(99, number=3))  # with what it had counted before
    assert summarize(0, [], made.reports())["gets"] == 102


def test_connected_processes_stay_by_themselves(
    made: Counts, connected: set[str]
) -> None:
    connected |= {f"worker {process}" for process in range(100)}
    for process in range(100):
        made.add(f"worker {process}", report(process))
    assert len(made.reports()) == 100
    made.add("worker 0", report(0, number=7))
    assert summarize(0, [], made.reports())["gets"] == 106


def test_hosts_past_the_first_ones_are_added_up(made: Counts) -> None:
    for process in range(100):
        made.add(f"worker {process}", report(process, host=f"h{process}"))
    told = summarize(0, [], made.reports())
    assert told["gets"] == 100
    assert told["hosts"][OTHERS]["gets"] >= 100 - 3 - 2 * 10 - 1
