"""The benchmark runs and prints its tables; what it measures is not tested."""

from __future__ import annotations

import dataclasses
from typing import Any

import distributed
import pytest

import daskref
from daskref.bench import connectors as bench_connectors
from daskref.bench import objects as bench_objects
from daskref.bench import program as bench
from daskref.bench.measuring import compare, settle
from daskref.bench.rows import ROWS, Rival, Row
from daskref.cli import main
from tests.support.requirements import require_module

ROW = Row("row", "a row", 2, lambda size: (2.0, 0.5), cluster=False)


def test_a_row_is_a_line_of_a_table() -> None:
    result = bench.run_row(ROW, 100, 3)
    assert (result.plain, result.ours) == ([2.0] * 3, [0.5] * 3)
    line = bench.format_result(result)
    assert line == (
        "| a row | 2 s (2 to 2) | 0.5 s (0.5 to 0.5) | 4 (4 to 4) | 2 | yes |"
    )


def test_a_row_that_misses_its_target_says_so() -> None:
    row = Row("row", "a row", 5, lambda size: (2.0, 0.5), cluster=False)
    assert bench.format_result(bench.run_row(row, 100, 1)).endswith("| 5 | no |")


RIVAL = Rival("Rival", 3, lambda client, size: 1.0, needs=("no_such_package",))


def test_a_rival_has_a_line_of_its_own() -> None:
    row = dataclasses.replace(ROW, rival=RIVAL)
    lines = bench.format_result(bench.Result(row, [4.0], [0.5], [1.0])).splitlines()
    assert lines == [
        "| a row | 4 s (4 to 4) | 0.5 s (0.5 to 0.5) | 8 (8 to 8) | 2 | yes |",
        "| the same, Rival in place of plain Dask | 1 s (1 to 1) "
        "| 0.5 s (0.5 to 0.5) | 2 (2 to 2) | 3 | no |",
    ]


def test_a_rival_that_is_missing_is_not_a_number() -> None:
    row = dataclasses.replace(ROW, rival=RIVAL)
    line = bench.format_result(bench.Result(row, [4.0], [0.5])).splitlines()[1]
    assert line == (
        "| the same, Rival in place of plain Dask | cannot | 0.5 s (0.5 to 0.5) "
        "| - | 3 | - |"
    )


def test_a_row_whose_package_is_missing_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    row = dataclasses.replace(ROW, needs=("json", "no_such_package"))
    after = dataclasses.replace(ROW, name="after")
    monkeypatch.setattr(bench, "ROWS", (row, after))
    assert main(["bench", "--size", "1 MiB", "--rounds", "1"]) == 0
    skipped, measured = capsys.readouterr().out.splitlines()[-2:]
    assert skipped == (
        "| a row | cannot: No module named 'no_such_package' | - | - | 2 | - |"
    )
    assert measured.endswith("| yes |")


@pytest.fixture
def small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of the rows as small as they can be and still go by reference."""
    for name, value in (
        *[("LAYERS", 2), ("WIDTH", 512), ("SUBMITS", 3)],
        *[("TREES", 4), ("SAMPLES", 5000), ("FOREST_TASKS", 3)],
        *[("OBJECTS", 3), ("PAYLOAD", 2_000_000)],
    ):
        monkeypatch.setattr(bench_objects, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("small_objects")
@pytest.mark.parametrize("make", [distributed.Client, daskref.Client])
@pytest.mark.parametrize("name", ["model", "model-broadcast", "forest", "objects"])
def test_objects_of_many_kinds(name: str, make: Any) -> None:
    row = next(row for row in ROWS if row.name == name)
    for package in row.needs:
        # gigabytes, and no part of what the tests need
        load = pytest.importorskip if package == "torch" else require_module
        load(package)
    with make(processes=False, n_workers=2, dashboard_address=":0") as client:
        assert 0 < row.measure(client, 0) < 60
        if make is daskref.Client:
            assert daskref.stats(client)["puts"]
            settle(client)
            assert daskref.stats(client)["objects"] == 0


@pytest.mark.stress  # four clusters, for a row of the benchmark
@pytest.mark.usefixtures("small_objects")
def test_the_rival_of_objects_takes_turns(capsys: Any) -> None:
    require_module("proxystore")
    args = ["objects", "--rounds", "1", "--pause", "0", "--size", "1 MiB"]
    assert main(["bench", *args]) == 0
    ours, rival = capsys.readouterr().out.splitlines()[-2:]
    assert ours.startswith("| 20 objects with 20 MB of bytes each")
    assert rival.startswith("| the same, ProxyStore in place of plain Dask")
    assert "cannot" not in rival


@pytest.mark.slow
def test_a_program_of_its_own_for_each_round() -> None:
    row = next(row for row in ROWS if row.name == "submit")
    assert 0 < bench._run_program(row, "daskref", 1 << 21) < 60


@pytest.mark.slow
@pytest.mark.parametrize("operation", bench_connectors.OPERATIONS)
def test_connectors_are_compared(operation: str, capsys: Any) -> None:
    require_module("proxystore")
    args = ["bench", "connectors", "file", "--sizes", "1 KiB,2 MiB", "--rounds", "1"]
    assert main([*args, "--operations", operation]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split("|")[1:4] for line in lines] == [
        [" file ", f" {operation} ", " 1.00 kiB "],
        [" file ", f" {operation} ", " 2.00 MiB "],
    ]
    assert "cannot" not in "".join(lines)


def test_what_cannot_be_done_is_not_a_number() -> None:
    assert compare([], [0.05]) == "cannot | 50 ms (50 to 50) | -"


@pytest.mark.parametrize(
    "args", [["nowhere"], ["file", "--operations", "jump"]], ids=str
)
def test_unknown_names_are_refused(args: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "connectors", *args])
    assert "no such" in capsys.readouterr().err
