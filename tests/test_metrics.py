"""Counters."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from distributed.metrics import context_meter

from daskref.metrics import COUNTERS, Counters, metered, summarize


def report(process: str, host: str = "here", **counts: int) -> dict[str, Any]:
    return {"process": process, "host": host, **dict.fromkeys(COUNTERS, 0), **counts}


def test_counters_start_at_zero_and_add_up() -> None:
    counters = Counters()
    assert counters.snapshot() == dict.fromkeys(COUNTERS, 0)
    counters.add("puts")
    counters.add("bytes_kept", 100)
    counts = counters.snapshot()
    assert (counts["puts"], counts["bytes_kept"]) == (1, 100)
    counts["puts"] = 99
    assert counters.snapshot()["puts"] == 1


def test_an_unknown_counter_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Counters().add("putts")


def test_threads_lose_no_count() -> None:
    counters = Counters()
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: counters.add("gets"), range(4000)))
    assert counters.snapshot()["gets"] == 4000


def test_metered_reports_to_dask() -> None:
    seen: list[tuple[Any, float, str]] = []
    with (
        context_meter.add_callback(lambda *args: seen.append(args)),  # type: ignore[arg-type]
        metered("daskref-put"),
    ):
        pass
    ((label, seconds, unit),) = seen
    assert (label, unit) == ("daskref-put", "seconds")
    assert seconds >= 0


class TestSummarize:
    def test_adds_up_by_host(self) -> None:
        found = summarize(
            2,
            50,
            3,
            "here",
            [
                report("a", puts=1, gets=5),
                report("b", puts=2),
                report("c", "there", gets=7, bytes_kept=10),
            ],
        )
        assert (found["objects"], found["bytes"]) == (2, 50)
        assert (found["puts"], found["gets"], found["bytes_kept"]) == (3, 12, 10)
        assert set(found["hosts"]) == {"here", "there"}
        assert found["hosts"]["here"] == {
            **dict.fromkeys(COUNTERS, 0), "puts": 3, "gets": 5, "objects": 2,
            "bytes": 50,
        }  # fmt: skip
        assert found["hosts"]["there"]["objects"] == 0

    def test_a_process_that_reports_twice_counts_once(self) -> None:
        # a client and the scheduler in one process share the session
        found = summarize(0, 0, 0, "here", [report("a", gets=2), report("a", gets=3)])
        assert found["gets"] == 3

    def test_puts_of_killed_processes_count(self) -> None:
        found = summarize(1, 10, 5, "here", [report("a", puts=2)])
        assert found["puts"] == 5

    def test_nobody_has_reported(self) -> None:
        found = summarize(0, 0, 0, "here", [])
        assert found["hosts"] == {
            "here": {"objects": 0, "bytes": 0, **dict.fromkeys(COUNTERS, 0)}
        }
        assert found.keys() == {"objects", "bytes", "hosts", *COUNTERS}
