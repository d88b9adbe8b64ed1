"""The dashboard for Grafana asks for what daskref exports, and for all of it."""

from __future__ import annotations

import json
import re
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest

from daskref.cluster.stats import STORED, Collector
from daskref.store.metrics import COUNTERS, INBAND
from tests.support.pages import ROOT
from tests.support.requirements import require_module

BOARD = json.loads((ROOT / "docs" / "grafana.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
VARIABLES = {each["name"]: each for each in BOARD["templating"]["list"]}
_METRIC = re.compile(r"\bdaskref_\w+")
#: What Prometheus itself adds.
SCRAPED = {"job", "instance"}


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """The metrics of a process, each with its labels."""
    require_module("prometheus_client")
    report = {**dict.fromkeys(COUNTERS, 1), "inband": dict.fromkeys(INBAND, 1)}
    session = SimpleNamespace(
        report=lambda: report,
        stored=lambda: {"host": "a", **dict.fromkeys(STORED, 1)},
        info=SimpleNamespace(id="session"),
        executor=SimpleNamespace(submit=lambda func, *args: func(*args)),
    )
    collector = Collector(lambda: [session])
    return {
        sample.name: set(sample.labels)
        for family in list(collector.collect())
        for sample in family.samples
    }


def test_it_asks_for_each_metric_that_is_exported(exported: dict[str, Any]) -> None:
    named = {name for query in QUERIES for name in _METRIC.findall(query)}
    assert named == set(exported)
    assert set(_METRIC.findall(VARIABLES["job"]["query"])) <= named


def test_it_goes_by_labels_that_there_are(exported: dict[str, set[str]]) -> None:
    for query in QUERIES:
        labels = set().union(*(exported[name] for name in _METRIC.findall(query)))
        used = set(re.findall(r'(\w+)[!=]~?"', query))
        for listed in re.findall(r"(?:by|on) \(([\w, ]+)\)", query):
            used |= set(listed.split(", "))
        assert used <= labels | SCRAPED, query
        variables = set(re.findall(r"\$(\w+)", query)) - {"__rate_interval"}
        assert variables <= set(VARIABLES)


def test_what_is_told_of_a_host_by_each_of_its_processes_counts_once() -> None:
    for query in QUERIES:
        for name in _METRIC.findall(query):
            if "_host_" in name:
                assert re.search(rf"max by \(host[^)]*\) \({name}", query), query


def test_panels_do_not_overlap() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        return {(x + i, y + j) for i in range(w) for j in range(h)}

    for one, other in combinations(BOARD["panels"], 2):
        assert not cells(one) & cells(other)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
