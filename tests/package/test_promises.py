"""Each promise of the table in the README has a file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: How a row of the table begins, and the files in ``tests`` that show what it says.
PROMISES = {
    "`submit`, `map`, `delayed`": "integration/test_arguments.py "
    "integration/test_scatter.py integration/test_results.py "
    "integration/test_actors.py",
    "the same value in forty calls": "integration/test_stored_once.py "
    "objects/test_identity.py",
    "the scheduler": "integration/test_scheduler_is_small.py",
    "memory of the workers on one machine": "integration/test_stored_once.py "
    "worker/test_nanny.py",
    "a value that many machines need": "hosts/test_clusters.py hosts/test_zmq.py",
    "scattered data when its worker dies": "integration/test_scatter.py",
    "values up to the threshold": "integration/test_arguments.py",
    "what your function receives": "integration/test_received_values.py",
    "what `result()` and `gather()` return": "integration/test_results.py",
    "lifetime of data": "integration/test_lifetimes.py",
    "retries, recomputation": "integration/test_lifetimes.py",
    "other clients in the same process": "integration/test_mixed_clients.py",
    "shared memory full": "integration/test_store_full.py "
    "integration/test_store_unreachable.py "
    "integration/test_store_unreachable_at_first.py",
    "where the values are": "integration/test_kinds_of_store.py "
    "integration/test_object_store.py",
    "tidiness after `kill -9`": "integration/test_crashes.py",
}


def rows() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text.partition("## What changes")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.split(" | ")[0].removeprefix("| ") for line in lines][1:]


def test_each_row_has_files() -> None:
    assert len(rows()) == len(PROMISES)
    for row, promise in zip(rows(), PROMISES, strict=True):
        assert row.startswith(promise)


@pytest.mark.parametrize("promise", PROMISES)
def test_the_files_are_there(promise: str) -> None:
    for name in PROMISES[promise].split():
        assert (ROOT / "tests" / name).is_file()
