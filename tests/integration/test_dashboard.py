"""The page in Dask's own dashboard, in a browser."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from tests.support import chromium
from tests.support.common import large, wait_until
from tests.support.requirements import require, require_module
from tests.support.tasks import total

pytestmark = pytest.mark.slow

BOKEH_APPLICATION = "distributed.scheduler.dashboard.bokeh-application"
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def browser(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[chromium.Chromium]:
    require_module("bokeh")
    require(chromium.find(), "a browser: no program chromium")
    browser = chromium.Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two worker processes, and a dashboard that was there before daskref."""
    require_module("bokeh")
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as cluster:
        yield cluster


def link(cluster: Any, page: str = "daskref") -> str:
    return str(cluster.dashboard_link).removesuffix("status") + page


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return str(answer.read().decode())


def shows(tab: chromium.Tab, *texts: str) -> None:
    """Wait until a page shows some texts; its console has said nothing bad by then."""
    wait_until(
        lambda: all(each in tab.text() for each in texts), f"{texts} on the page"
    )
    assert tab.errors == []


def test_the_numbers_of_a_job(browser: chromium.Chromium, cluster: Any) -> None:
    with daskref.Client(cluster) as client:
        tab = browser.open(link(cluster))
        shows(tab, "Largest objects: none", "Between hosts: none")
        x = large(nbytes=4 << 20)
        futures = client.map(total, [x] * 6, range(6), pure=False)
        client.gather(futures)
        told = daskref.stats(client)
        assert (told["objects"], told["puts"]) == (1, 1)
        shows(
            tab,
            "1 objects 4.00 MiB in all",
            "1 puts",
            f"{told['gets']:,} gets",
            f"{told['bytes_kept'] / 2**20:.2f} MiB kept off the scheduler",
            "numpy.ndarray (524288,) 4.00 MiB",
            "total",
        )
        chart = "Bokeh.documents[0].get_model_by_name('hosts')"
        assert tab.evaluate(f"{chart}.y_range.factors") == [socket.gethostname()]
        drawn = f"Array.from({chart}.renderers[0].data_source.data.memory)"
        wait_until(lambda: tab.evaluate(drawn) == [told["memory"]], "the bar")
        client.restart()
        del x, futures
        shows(tab, "Largest objects: none", "1 puts")
        tab.close()


def test_strings_of_users_are_text(browser: chromium.Chromium, cluster: Any) -> None:
    with daskref.Client(cluster) as client:
        held = client.submit(total, large(), key=EVIL)
        assert held.result()
        event = {"action": "fallback", "reason": EVIL, "worker": EVIL}
        client.log_event("daskref", event)
        client.log_event("daskref", EVIL)
        tab = browser.open(link(cluster))
        shows(tab, "Warnings UTC", "numpy.ndarray")
        assert tab.text().count("<script>window.hacked") >= 3
        assert tab.evaluate("window.hacked") is None
        tab.close()


def test_the_menu_of_dasks_pages_leads_there(
    browser: chromium.Chromium, cluster: Any
) -> None:
    assert "Daskref" not in get(link(cluster, "status"))
    with daskref.Client(cluster):
        tab = browser.open(link(cluster, "status"))
        wait_until(lambda: "Daskref" in tab.text(), "the menu")
        tab.evaluate("document.querySelector('a[href=daskref]').click()")
        shows(tab, "Largest objects")
        tab.close()


def test_it_goes_when_daskref_is_switched_off_and_comes_again(
    browser: chromium.Chromium, cluster: Any
) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        daskref.enable(client)
        tab = browser.open(link(cluster))
        shows(tab, "Largest objects")
        daskref.disable(client)
        shows(tab, "daskref was switched off")
        assert "Daskref" not in get(link(cluster, "status"))
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            get(link(cluster))
        caught.value.close()
        daskref.enable(client)
        assert get(link(cluster, "status")).count("Daskref") == 1
        again = browser.open(link(cluster))
        shows(again, "Largest objects", "puts")
        daskref.disable(client)
        for each in (tab, again):
            each.close()


def questions() -> int:
    """Count what is asked again and again for the page; runs on the scheduler."""
    return sum("Sampler._repeat" in repr(task) for task in asyncio.all_tasks())


def test_nothing_is_looked_up_but_while_a_page_is_open(
    browser: chromium.Chromium, cluster: Any
) -> None:
    soon = {"unused_session_lifetime_milliseconds": 500}
    options = dask.config.get(BOKEH_APPLICATION)
    with (
        dask.config.set({BOKEH_APPLICATION: {**options, **soon}}),
        daskref.Client(cluster) as client,
    ):
        assert client.run_on_scheduler(questions) == 0
        tabs = [browser.open(link(cluster)) for _ in range(2)]
        for tab in tabs:
            shows(tab, "in all")
        assert client.run_on_scheduler(questions) == 3
        for tab in tabs:
            tab.close()
        wait_until(lambda: not client.run_on_scheduler(questions), "nobody looks", 60)


PLAIN = """
import logging, sys, urllib.error, urllib.request
sys.modules["bokeh"] = None
from distributed import LocalCluster
import daskref

if __name__ == "__main__":
    with LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as cluster:
        with daskref.Client(cluster) as client:
            assert client.submit(len, bytes(2_000_000)).result() == 2_000_000
            page = cluster.dashboard_link.replace("status", "daskref")
            try:
                urllib.request.urlopen(page, timeout=20)
            except urllib.error.HTTPError as exc:
                with exc:
                    assert exc.code == 404
            else:
                raise AssertionError("there is a page")
"""


def test_without_bokeh_there_is_no_page_and_no_error(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PLAIN)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "dashboard" not in done.stderr


def test_without_a_dashboard_there_is_no_page_and_no_error() -> None:
    with (
        LocalCluster(
            processes=False,
            n_workers=1,
            dashboard_address=":0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        daskref.Client(cluster) as client,
    ):
        assert client.submit(np.sum, large()).result()
        assert not cluster.scheduler.http_application.applications
