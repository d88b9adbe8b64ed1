"""``daskref doctor`` of a cluster on several hosts."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

import daskref
from daskref.cli import main
from tests.hosts.test_clusters import CONNECTORS, TIMEOUT, connect, make_site
from tests.support.common import wait_until

(AUTO,) = [case for case in CONNECTORS if case.spec == "auto"]


def examine(address: str, connector: str, *argv: str) -> dict[str, Any]:
    """Return what the doctor finds, by check, while somebody uses the cluster."""
    with connect(address, connector) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            main(["doctor", address, "--json", *argv])
        wait_until(lambda: not daskref.stats(client)["objects"], "nothing left")
        found: dict[str, Any] = {}
        for each in json.loads(written.getvalue()):
            found.setdefault(each["check"], []).append(each)
        return found


@pytest.mark.parametrize("blocked", [None, "one", "client"])
def test_pairs_of_hosts(blocked: str | None, tmp_path: Path) -> None:
    for site in make_site(AUTO, tmp_path):
        others = [site[name] for name in ("one", "two") if name != blocked]
        if blocked is not None:
            site[blocked].block(*others, silently=False)
        found = site.cluster.call(
            site["client"], examine, site.connector, "--timeout", "5 s", timeout=100
        )
        assert {each["status"] for each in found["round trip"]} == {"ok"}
        assert {each["status"] for each in found["port"]} == {"ok"}
        (client,) = found["client"]
        if blocked != "one":  # else it depends on the host that takes what it puts
            assert client["status"] == ("failed" if blocked == "client" else "ok")
        if blocked is not None:
            site[blocked].unblock(*others)
        if blocked == "one":
            assert {each["status"] for each in found["hosts"]} == {"failed"}
            told = [each["told"] for each in found["hosts"]]
            assert all(text.startswith("zmq: ") for text in told)
        else:
            (hosts,) = found["hosts"]
            assert (hosts["status"], hosts["where"]) == ("ok", "2 pairs")
