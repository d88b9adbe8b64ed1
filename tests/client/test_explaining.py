"""``explain``: what would go by reference, and why the rest would not."""

from __future__ import annotations

import functools
import threading
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client as PlainClient
from distributed import LocalCluster, wait

import daskref
from daskref import Client, explain, stats
from daskref.client.tables import Table
from tests.support.common import session_of

LARGE, MIDDLE, SMALL = 300_000, 20_000, 10  # of float64


def use(a: Any, b: Any = None, **more: Any) -> Any:
    return a


class Model:
    def __init__(self) -> None:
        self.weights = np.ones(LARGE)
        self.name = "model"


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.data = np.ones(LARGE)


def routes(rows: Any) -> dict[str, str]:
    return {row.where: row.route for row in rows}


class TestWithoutAClient:
    def test_arguments_by_their_names(self) -> None:
        rows = explain(use, np.ones(LARGE), more=Model())
        assert routes(rows) == {
            "argument a": "reference",
            "argument more['more'].weights": "reference",
        }
        assert {row.type for row in rows} == {"numpy.ndarray"}
        assert not any(row.stored for row in rows)

    def test_what_is_below_the_threshold_says_so(self) -> None:
        (row,) = explain(use, np.ones(MIDDLE), np.ones(SMALL))
        assert row.where == "argument a"
        assert row.route == "in-band"
        assert "not above the threshold of 1.00 MiB (daskref.threshold)" in row.why
        assert row.to == ""

    def test_one_object_is_listed_once(self) -> None:
        x = np.ones(LARGE)
        assert routes(explain(use, x, b=[x, {"again": x}])) == {
            "argument b[1]['again']": "reference"
        }

    def test_closures_partials_defaults_and_methods(self) -> None:
        big = np.ones(LARGE)

        def closing(x: Any, table: Any = np.zeros(LARGE)) -> Any:  # noqa: B008
            return big, table

        assert routes(explain(closing, 1)) == {
            "closure of closing: big": "reference",
            "default 0 of closing": "reference",
        }
        rows = explain(functools.partial(use, np.ones(LARGE)), b=1)
        assert routes(rows) == {"partial argument 0": "reference"}

    def test_what_does_not_serialize(self) -> None:
        rows = explain(use, Locked(), np.ones(LARGE))
        assert all(row.route == "in-band" for row in rows)
        assert "argument b" in routes(rows)
        assert all("cannot pickle '_thread.lock'" in row.why for row in rows)

    def test_collections_name_layer_and_part(self) -> None:
        x = da.from_array(np.ones((600, 600)), chunks=(300, 600))
        rows = explain(x.sum())
        assert [row.route for row in rows] == ["reference"] * 2  # a part of it each
        assert sum(row.nbytes for row in rows) >= 8 * 600 * 600
        assert any(" (1, 0): argument" in row.where for row in rows)
        rows = explain(dask.delayed(use)(np.ones(LARGE)))
        assert [row.route for row in rows] == ["reference"]

    def test_bad_targets(self) -> None:
        with pytest.raises(TypeError, match="a function and what to call it with"):
            explain(3)
        with pytest.raises(TypeError, match="takes arguments for a call"):
            explain(da.ones(3), 1)


def test_with_a_client() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster, threshold="100 kB") as client,
    ):
        x = np.ones(MIDDLE)
        (before,) = explain(use, x)
        assert (before.route, before.stored) == ("reference", False)
        assert stats(client)["puts"] == 0
        future = client.submit(use, x)
        future.result()
        (after,) = explain(use, x, client=client)
        assert after.stored
        assert after.to == repr(session_of(client).store.connector)
        with PlainClient(cluster, set_as_default=False) as plain:
            (row,) = explain(use, np.ones(LARGE), client=plain)
            assert row.route == "in-band"
            assert "daskref.enable" in row.why


class TestTables:
    def test_text_and_html(self) -> None:
        table = Table(("name", "nbytes"), [("<b>", 2**20), ("\x1b[2J\nz", 1)])
        assert repr(table).splitlines()[1].split() == ["<b>", "1.00", "MiB"]
        assert len(repr(table).splitlines()) == 3
        assert "\x1b" not in repr(table)
        assert "<b>" not in table._repr_html_()
        assert "&lt;b&gt;" in table._repr_html_()

    def test_order_and_filter(self) -> None:
        table = Table(("name", "nbytes"), [("a", 1), ("b", 3), ("c", 2)])
        assert [name for name, _ in table.by("nbytes")] == ["b", "c", "a"]
        assert list(table.where(lambda row: row[1] == 2)) == [("c", 2)]
        assert list(table.to_pandas().columns) == ["name", "nbytes"]
        with pytest.raises(KeyError, match="none of name, nbytes"):
            table.by("size")

    def test_many(self) -> None:
        table = Table(("n",), [(n,) for n in range(1000)])
        assert repr(table).endswith("and 940 more")


def test_is_public() -> None:
    assert daskref.explain is explain


class TestAfterARun:
    def test_arguments_inputs_and_results(self) -> None:
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            Client(cluster) as client,
        ):
            first, second = client.scheduler_info()["workers"]
            made = client.submit(use, np.ones(LARGE), workers=[first], key="made")
            made.result()
            (argument, result) = explain(made).by("where", descending=False)
            assert argument.where == "argument of made"
            assert argument.type == "numpy.ndarray"
            assert result.where == "result of made"
            assert argument.route == result.route == "reference"
            assert argument.stored
            assert result.stored
            small = client.submit(np.ones, MIDDLE, key="small")
            kept = client.submit(np.ones, LARGE, workers=[first], key="kept")
            wait([small, kept])
            assert [(row.route, row.stored) for row in explain("kept")] == [
                ("in-band", False)
            ]
            assert "daskref.results" in explain("kept")[0].why
            assert "daskref.threshold" in explain(small)[0].why
            moved = client.submit(len, kept, workers=[second], key="moved")
            moved.result()
            (row,) = explain(moved)
            assert (row.where, row.route) == ("result of kept", "reference")
            assert list(explain("nobody knows it")) == []
            with pytest.raises(TypeError, match="takes arguments for a call"):
                explain(moved, 1)

    def test_plain_clients_are_told_what_to_do(self) -> None:
        with (
            LocalCluster(
                n_workers=0, processes=False, dashboard_address=":0"
            ) as cluster,
            PlainClient(cluster) as client,
            pytest.raises(TypeError, match=r"daskref\.enable"),
        ):
            explain("a", client=client)
