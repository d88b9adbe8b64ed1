"""The page on transparency says what is so."""

from __future__ import annotations

import json

import pytest

from daskref.bench.proxies import ROWS
from tests.support.proxy_libraries import LIBRARIES
from tests.support.proxy_operations import BEFORE_312, SINCE_312, expected_deviations
from tests.support.proxy_quiet import LEGITIMATE
from tests.support.transparency import (
    AROUND,
    PAGE,
    RESULTS,
    environment,
    measure,
    render,
)
from tests.support.transparency_values import arrivals

DATA = json.loads(RESULTS.read_text())

#: (case, kind) that depend on the version of Python.
CONDITIONAL = {
    (case, kind)
    for table in (BEFORE_312, SINCE_312)
    for case, kinds in table.items()
    for kind in kinds
}


def _stored(name):
    return DATA["libraries"][name]["results"]


def _deviations(results):
    return {
        (case, kind)
        for kind, verdicts in results["users"].items()
        for cases in verdicts.values()
        for case in cases
    }


def _fetched(results):
    return {
        (part, action, kind)
        for part in ("dask", "python", "metadata")
        for action, verdicts in results[part].items()
        for kinds in verdicts.values()
        for kind in kinds
        if (action, kind) not in LEGITIMATE
    }


@pytest.fixture(scope="module")
def measured():
    return measure("daskref")


def test_page_is_made_of_the_results():
    assert PAGE.read_text() == render(DATA), "run `make transparency`"


@pytest.mark.slow
def test_daskref_deviates_nowhere_but_where_the_page_says(measured):
    new = _deviations(measured) - _deviations(_stored("daskref")) - CONDITIONAL
    assert not new
    assert not _fetched(measured) - _fetched(_stored("daskref"))


@pytest.mark.slow
def test_daskref_deviates_where_the_page_says(measured):
    around, noted = environment(), DATA["made with"]
    if any(around[name] != noted[name] for name in AROUND):
        pytest.skip(f"the page was made with {noted}, here are {around}")
    assert not _deviations(_stored("daskref")) - _deviations(measured) - CONDITIONAL
    assert _fetched(measured) == _fetched(_stored("daskref"))
    if around["python"] == noted["python"]:
        assert measured == _stored("daskref")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(LIBRARIES) - {"daskref"}))
def test_other_libraries_are_as_the_page_says(name):
    noted = DATA["made with"] | {name: DATA["libraries"][name]["version"]}
    here = environment() | {name: LIBRARIES[name].version}
    if here != noted:
        pytest.skip(f"the page was made with {noted}, here are {here}")
    assert measure(name) == _stored(name), "run `make transparency`"


def test_what_is_known_to_differ_is_on_the_page():
    python = tuple(map(int, DATA["made with"]["python"].split(".")))
    assert expected_deviations(python) == _deviations(_stored("daskref"))


def test_values_arrive_as_the_page_says():
    here = arrivals()
    assert here
    for kind, ways in here.items():
        assert ways["daskref"] == DATA["values"][kind]["daskref"], kind
    if environment() == DATA["made with"]:
        noted = {kind: ways for kind, ways in DATA["values"].items() if kind in here}
        assert here == noted, "run `make transparency`"


def test_values_arrive_no_worse_than_with_plain_dask():
    """On the way of arguments, which is the reference."""
    for kind, ways in DATA["values"].items():
        lost = {*ways["daskref"].split(", ")} - {*ways["Dask, argument"].split(", ")}
        assert not lost - {"same"}, kind


def test_every_kind_of_use_is_faster_than_with_proxystore():
    speed = {row["title"]: row["ratio"] for row in DATA["speed"]["rows"]}
    assert list(speed) == [row.title for row in ROWS], "`daskref bench proxies --json`"
    assert all(ratio > 1 for ratio in speed.values())
