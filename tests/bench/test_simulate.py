"""Predictions for many hosts: what is printed, and what is measured for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daskref.bench import simulate as bench_simulate
from daskref.bench.bytes import open_stores
from daskref.bench.clusters import hosts_for_sides
from daskref.bench.links import Broadcast, broadcast, measure_links, watch
from daskref.bench.model import Spread
from daskref.bench.simulate import format_line, growth, read_links
from daskref.cli import main
from tests.support.namespaces import require_hosts

MIB = 1 << 20
LINKS = {"setup": 0.5, "alone": 1e6, "several": 1e6, "shared": None}
SPREAD = Spread(hosts=8, seconds=1.25, rounds=2, copies=4)


@pytest.fixture
def links(tmp_path: Path) -> Path:
    path = tmp_path / "links.json"
    path.write_text(json.dumps({"nbytes": 1_000_000, "links": LINKS}))
    return path


def test_a_prediction_is_a_line_of_a_table() -> None:
    assert format_line(SPREAD) == "| 8 | 2 | 1.25 | - | - | 4 | - | - |"


def test_what_was_measured_stands_beside_it() -> None:
    measured = [Broadcast(1.0, 3.9), Broadcast(3.0, 4.1), Broadcast(2.0, 4.0)]
    assert format_line(SPREAD, measured) == (
        "| 8 | 2 | 1.25 | 2 (1 to 3) | - | 4 | 4.1 | - |"
    )
    assert format_line(SPREAD, measured, measured[:1]) == (
        "| 8 | 2 | 1.25 | 2 (1 to 3) | 1 (1 to 1) | 4 | 4.1 | 3.9 |"
    )


def test_numbers_of_hosts_grow_tenfold() -> None:
    assert growth(1000) == [10, 100, 1000]
    assert growth(250) == [10, 100, 250]
    assert growth(3) == [3]


def test_links_of_a_file_are_enough(links: Path, capsys: Any) -> None:
    assert main(["bench", "--simulate", "hosts=1000", "--links", str(links)]) == 0
    out = capsys.readouterr().out
    assert "500 ms before the first byte, one transfer alone 1 MB/s" in out
    # each round takes half a second, and two transfers of a second each
    assert out.splitlines()[-1] == "| 1000 | 7 | 17.5 | - | - | 12 | - | - |"


def test_another_size_than_was_measured(links: Path, capsys: Any) -> None:
    args = ["--simulate", "hosts=2", "--links", str(links), "--size", "2 MB"]
    assert bench_simulate.main(args) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("| 2 | 1 | 4.5 |")


@pytest.mark.parametrize("given", ["1000", "hosts", "hosts=0", "hosts=-1", "nodes=3"])
def test_hosts_that_are_none(given: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        bench_simulate.main(["--simulate", given])
    assert "expected hosts=N" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [{}, {"nbytes": 1}, {"nbytes": 1, "links": {"setup": 1}}, []],
    ids=str,
)
def test_files_that_hold_no_links(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not hold nbytes and links"):
        read_links(path)


@pytest.mark.slow
@pytest.mark.hosts
def test_links_are_measured() -> None:
    require_hosts("rate")
    with hosts_for_sides(8) as network:
        hosts = [network[f"host-{number}"] for number in range(8)]
        for host in hosts:
            host.shape(mbit=80)
        with open_stores(hosts, "clear") as stores:
            links = measure_links(stores, MIB, 1)
    # bounded to 10 MB/s, but for a burst; two share it
    assert links.setup > 0
    for speed in (links.alone, links.several):
        assert 1e6 < speed < 20e6


@pytest.mark.slow
@pytest.mark.hosts
def test_an_object_spreads_as_a_tree() -> None:
    require_hosts()
    with hosts_for_sides(5) as network:
        hosts = [network[f"host-{number}"] for number in range(5)]
        with open_stores(hosts, "tls") as stores:
            seen = watch(hosts, 3 * MIB, lambda: broadcast(stores, 4, 3 * MIB))
            assert seen.seconds > 0
            # the first two read from the origin; it and they have room for the others
            assert 2 < seen.copies < 3.3
            received = [host.traffic.received for host in hosts]
        assert all(count > 3 * MIB for count in received[1:])
        assert received[0] < MIB


@pytest.mark.slow
@pytest.mark.hosts
def test_everything_is_measured(tmp_path: Path, capsys: Any) -> None:
    require_hosts("rate")
    path = tmp_path / "out.json"
    args = ["--simulate", "hosts=100", "--size", "512 KiB", "--rounds", "1"]
    assert bench_simulate.main([*args, "--no-dask", "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()[4:]
    assert [line.split(" | ")[0] for line in lines] == "| 2,| 4,| 8,| 10,| 100".split(
        ","
    )
    assert all(line.split(" | ")[3] != "-" for line in lines[:3])
    nbytes, links = read_links(path)
    assert nbytes == 512 << 10
    assert links.alone > 0
