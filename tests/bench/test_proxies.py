"""The benchmark of proxies measures what it says; how fast is not tested."""

from __future__ import annotations

import json
import sys

import pytest

from daskref.bench import proxies as bench_proxies
from daskref.bench.proxies import LIBRARIES, ROWS, makers, prepare, report, run_row
from daskref.cli import main


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_every_row_runs_on_daskref_and_its_rival(row):
    result = run_row(row, rounds=2, seconds=1e-6)
    assert {"daskref", "proxystore"} <= set(result.times) <= set(LIBRARIES)
    assert all(len(times) == 2 for times in result.times.values())
    assert result.ratio() > 0
    assert ("plain" in result.times) == (row.state == "resolved")


def test_what_a_library_cannot_do_is_left_out():
    dumps = next(row for row in ROWS if row.title == "pickle.dumps, unresolved")
    assert prepare(dumps, "wrapt", makers()["wrapt"]) is None
    described = next(row for row in ROWS if row.title == "hash, unresolved")
    assert prepare(described, "wrapt", makers()["wrapt"]) is None
    assert prepare(described, "plain", None) is None


def test_libraries_that_are_missing_have_no_column(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "proxystore.proxy", None)
    monkeypatch.setitem(sys.modules, "lazy_object_proxy", None)
    monkeypatch.setattr(bench_proxies, "ROWS", ROWS[:1])
    assert main(["bench", "proxies", "--rounds", "1"]) == 0
    out, err = capsys.readouterr()
    header, row = (
        line for line in out.splitlines() if "---" not in line and "|" in line
    )
    assert header == "| ns | plain | daskref | wrapt | proxystore / daskref |"
    assert row.startswith("| attribute | ")
    assert row.endswith(" |  |")
    assert "proxystore is not installed" in err
    assert "lazy-object-proxy is not installed" in err


def test_results_as_json(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_proxies, "ROWS", ROWS[:2])
    path = tmp_path / "speed.json"
    assert main(["bench", "proxies", "--rounds", "1", "--json", str(path)]) == 0
    data = json.loads(path.read_text())
    assert [row["title"] for row in data["rows"]] == [row.title for row in ROWS[:2]]
    assert set(data["versions"]) == {"python", *makers()}
    median, low, high = data["rows"][0]["ns"]["daskref"]
    assert 0 < low <= median <= high


def test_a_report_without_the_rival_has_no_ratio(monkeypatch):
    monkeypatch.setitem(sys.modules, "proxystore.proxy", None)
    data = report([run_row(ROWS[0], rounds=1, seconds=1e-6)])
    assert data["rows"][0]["ratio"] is None
