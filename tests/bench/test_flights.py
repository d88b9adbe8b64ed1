"""The data of the demo."""

from __future__ import annotations

import importlib.metadata
import math

import pytest

from daskref.bench import flights
from tests.support.requirements import require_module


@pytest.fixture(scope="module")
def table():
    require_module("pandas")
    return flights.load(copies=1)


def test_table(table):
    assert len(table) == 336_776
    assert {"carrier", "hour", "arr_delay", "distance"} <= set(table.columns)


@pytest.mark.slow
def test_copies(table):
    assert len(flights.load(copies=2)) == 2 * len(table)


def test_sweep_has_forty_different_steps_that_all_have_flights(table):
    steps = flights.sweep()
    assert len(steps) == len(set(steps)) == 40
    counts = table.groupby(["carrier", "hour"]).size()
    assert all(counts[step] > 50 for step in steps)


def test_score_repeats_and_tells_steps_apart(table):
    some = flights.sweep()[:3]
    scores = [flights.score(table, *step) for step in some]
    assert all(map(math.isfinite, scores))
    assert len(set(scores)) == 3
    assert scores == [flights.score(table, *step) for step in some]


def test_missing_data_says_what_to_install(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'daskref\[test\]'"):
        flights.load()
