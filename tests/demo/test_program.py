"""The demo: its verdict, and a run of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daskref.demo import program as demo
from tests.support.requirements import require_module

REPORT = demo.Report(
    seconds=1.0,
    wire_nbytes=1000,
    peak_nbytes=2000,
    store_nbytes=3_000_000,
    puts=1,
    results=[1.0, 2.0],
)


def _verdict(**reports):
    named = {f"{name}.Client": report for name, report in reports.items()}
    return demo._verdict(named, [1.0, 2.0], nbytes=3_000_000)


def test_passes():
    assert _verdict(distributed=REPORT, daskref=REPORT) == 0


def test_different_results_fail(capsys):
    assert _verdict(distributed=REPORT, daskref=replace(REPORT, results=[1.0])) == 1
    assert "results differ with daskref.Client" in capsys.readouterr().err


def test_bulk_data_through_the_scheduler_fails(capsys):
    bulk = replace(REPORT, wire_nbytes=3_000_000)
    assert _verdict(distributed=bulk, daskref=REPORT) == 0
    assert _verdict(distributed=bulk, daskref=bulk) == 1
    assert "went through the scheduler" in capsys.readouterr().err


def test_table_shows_every_figure():
    table = demo._table({"daskref.Client": REPORT}, [1.0, 2.0])
    rows = dict(line.rsplit("  ", 1) for line in table.splitlines()[2:])
    assert {key.strip(): value.strip() for key, value in rows.items()} == {
        "seconds": "1.0",
        "bytes through the scheduler": "0.0 MB",
        "peak scheduler memory": "+0.0 MB",
        "bytes in the store": "3.0 MB",
        "number of puts": "1",
        "results equal": "yes",
    }


@pytest.mark.slow
def test_run(capsys):
    require_module("pandas")
    assert demo.main(["--only", "daskref", "--copies", "1"]) == 0
    out, err = capsys.readouterr()
    assert "results equal" in out
    assert "finished 40/40" in err
