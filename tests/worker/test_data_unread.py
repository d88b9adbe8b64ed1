"""What a worker holds, seen without reading it."""

from __future__ import annotations

from pathlib import Path

from distributed.metrics import context_meter
from distributed.spill import SpillBuffer

from daskref.worker._data import peek


def test_reads_nothing_from_disk_and_counts_nothing(tmp_path: Path) -> None:
    data = SpillBuffer(str(tmp_path), target=10_000)
    data["small"] = b"x"
    data["large"] = b"x" * 20_000  # goes to disk at once
    assert list(data.disk) == ["large"]
    counted: list[object] = []
    with context_meter.add_callback(lambda *args: counted.append(args)):
        assert peek(data, "small") == b"x"
        assert peek(data, "large") is None
        assert peek(data, "none") is None
    assert list(data.disk) == ["large"]
    assert not counted


def test_of_the_users_own_mapping() -> None:
    assert peek({"x": 1}, "x") == 1
    assert peek({"x": 1}, "y") is None
