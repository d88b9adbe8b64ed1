"""The metrics that the scheduler and the workers serve for Prometheus."""

from __future__ import annotations

import urllib.request
from typing import Any

from daskref import Client, stats
from tests.support.common import large, processes, wait_until
from tests.support.requirements import require_module

prometheus_parser = require_module("prometheus_client.parser")


def scrape(address: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of daskref's that a process serves."""
    with urllib.request.urlopen(address, timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in prometheus_parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("daskref_")
    }


def value(samples: Any, name: str, **labels: str) -> float:
    wanted = labels.items()
    found = [v for (n, has), v in samples.items() if n == name and wanted <= has]
    (only,) = found
    return only


def test_scheduler_and_workers() -> None:
    with processes(1) as (scheduler, _), Client(scheduler.address) as client:
        future = client.submit(large, 3)
        future.result()
        info = client.scheduler_info()
        (worker,) = info["workers"].values()
        pages = [
            f"http://127.0.0.1:{info['services']['dashboard']}/metrics",
            f"http://127.0.0.1:{worker['services']['dashboard']}/metrics",
        ]
        at_scheduler, at_worker = map(scrape, pages)
        assert value(at_worker, "daskref_puts_total") == 1
        assert value(at_scheduler, "daskref_puts_total") == 0
        assert value(at_worker, "daskref_inband_total", reason="gpu") == 0
        for page in pages:
            wait_until(
                lambda page=page: any("host_bytes" in n for n, _ in scrape(page)),
                "sizes",
            )
            sizes, told = scrape(page), stats(client)
            assert value(sizes, "daskref_host_objects") == told["objects"] == 1
            memory = value(sizes, "daskref_host_bytes", state="memory")
            assert memory == told["memory"] > future.result().nbytes
        del future
