"""The benchmark runs and prints its tables; what it measures is not tested."""

from __future__ import annotations

from typing import Any

import pytest

from daskref import bench, bench_connectors
from daskref.cli import main
from tests.parts import require_module

ROW = bench.Row("row", "a row", 2, lambda size: (2.0, 0.5), cluster=False)


def test_a_row_is_a_line_of_a_table() -> None:
    result = bench.run_row(ROW, 100, 3)
    assert result.ratios == [4.0, 4.0, 4.0]
    line = bench.format_result(result)
    assert line == (
        "| a row | 2 s (2 to 2) | 0.5 s (0.5 to 0.5) | 4 (4 to 4) | 2 | yes |"
    )


def test_a_row_that_misses_its_target_says_so() -> None:
    row = bench.Row("row", "a row", 5, lambda size: (2.0, 0.5), cluster=False)
    assert bench.format_result(bench.run_row(row, 100, 1)).endswith("| 5 | no |")


@pytest.mark.slow
def test_a_program_of_its_own_for_each_round() -> None:
    row = next(row for row in bench.ROWS if row.name == "submit")
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
    row = bench_connectors.format_row("redis", "put", "1 GiB", [], [0.5])
    assert row == "| redis | put | 1 GiB | cannot | 500 ms (500 to 500) | - |"


@pytest.mark.parametrize(
    "args", [["nowhere"], ["file", "--operations", "jump"]], ids=str
)
def test_unknown_names_are_refused(args: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "connectors", *args])
    assert "no such" in capsys.readouterr().err
