"""Reports of hosts and processes, added up."""

from __future__ import annotations

from typing import Any

from daskref.cluster.stats import STORED, summarize
from daskref.store.metrics import COUNTERS, INBAND


def report(process: str, host: str = "here", **counts: int) -> dict[str, Any]:
    nothing = dict.fromkeys(COUNTERS, 0)
    return {"process": process, "host": host, "inband": {}, **nothing, **counts}


def store(place: str, host: str = "here", **sizes: int) -> dict[str, Any]:
    return {"place": place, "host": host, **dict.fromkeys(STORED, 0), **sizes}


NOTHING = dict.fromkeys([*STORED, *COUNTERS], 0)


class TestSummarize:
    def test_adds_up_by_host(self) -> None:
        found = summarize(
            3,
            [
                store("a", objects=2, bytes=50, memory=8192, budget=100),
                store("b", "there", objects=1, bytes=5, pinned=4096),
            ],
            [
                report("a", puts=1, gets=5),
                report("b", puts=2),
                report("c", "there", gets=7, bytes_kept=10),
            ],
        )
        assert (found["objects"], found["bytes"]) == (3, 55)
        assert (found["memory"], found["pinned"]) == (8192, 4096)
        assert (found["puts"], found["gets"], found["bytes_kept"]) == (3, 12, 10)
        assert set(found["hosts"]) == {"here", "there"}
        assert found["hosts"]["here"] == {
            **NOTHING, "puts": 3, "gets": 5, "objects": 2, "bytes": 50,
            "memory": 8192, "budget": 100,
        }  # fmt: skip
        assert found["hosts"]["there"] == {
            **NOTHING, "gets": 7, "bytes_kept": 10, "objects": 1, "bytes": 5,
            "pinned": 4096,
        }  # fmt: skip

    def test_a_process_that_reports_twice_counts_once(self) -> None:
        # a client and the scheduler in one process share the session
        found = summarize(0, [], [report("a", gets=2), report("a", gets=3)])
        assert found["gets"] == 3

    def test_a_place_counts_once_and_hosts_of_one_name_add_up(self) -> None:
        stores = [store("a", bytes=5), store("a", "alias", bytes=6), store("b")]
        assert summarize(0, stores, [])["bytes"] == 6
        stores = [store("a", bytes=5), store("b", bytes=6)]
        assert summarize(0, stores, [])["hosts"]["here"]["bytes"] == 11

    def test_puts_of_killed_processes_count(self) -> None:
        found = summarize(5, [store("a")], [report("a", puts=2)])
        assert found["puts"] == 5

    def test_nobody_has_reported(self) -> None:
        found = summarize(0, [store("a")], [])
        none = dict.fromkeys(INBAND, 0)
        assert found == {**NOTHING, "hosts": {"here": NOTHING}, "inband": none}

    def test_values_in_band_are_counted_by_reason(self) -> None:
        found = {**dict.fromkeys(INBAND, 0), "gpu": 2, "failed": 1}
        both = [
            {**report("a"), "inband": found},
            {**report("b", "there"), "inband": found},
        ]
        total = summarize(0, [], [*both, both[0]])["inband"]
        assert (total["gpu"], total["failed"]) == (4, 2)
