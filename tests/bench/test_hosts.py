"""The benchmark of many hosts runs and prints its table; its times are not tested."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daskref.bench import clusters as bench_clusters
from daskref.bench import hosts as bench_hosts
from daskref.bench.bytes import Turn, open_stores, take
from daskref.bench.clusters import hosts_for_sides, open_side
from daskref.bench.hosts import Row, Site, Taken, format_row
from daskref.bench.rivals import proxystore, sockets
from daskref.cli import main
from daskref.testing.agents import Agent
from daskref.testing.hosts import Network
from tests.support.common import wait_until
from tests.support.namespaces import require_hosts
from tests.support.requirements import require_module

MIB = 1 << 20
ROW = Row("a row", "theirs", "ours", 2)


class TestRows:
    def test_a_line_of_a_table(self) -> None:
        line = format_row(
            ROW,
            {
                "theirs": [Taken(2.0, 1.0), Taken(4.0, 5.0)],
                "ours": [Taken(0.5, 1.0), Taken(0.5, 2.0)],
            },
        )
        assert line == (
            "| a row | 3 s (2 to 4) | 0.5 s (0.5 to 0.5) | 6 (4 to 8) | 2 | yes | 2 |"
        )

    def test_a_target_that_is_missed(self) -> None:
        line = format_row(ROW, {"theirs": [Taken(2, 1)], "ours": [Taken(2, 0)]})
        assert line.endswith("| 1 (1 to 1) | 2 | no | - |")

    def test_what_is_only_reported(self) -> None:
        row = Row("a row", "theirs", "ours")
        line = format_row(row, {"theirs": [Taken(1, 1)], "ours": [Taken(2, 1)]})
        assert line.endswith("| 0.5 (0.5 to 0.5) | - | - | 1 |")

    def test_who_could_not_take_part(self) -> None:
        line = format_row(ROW, {"ours": [Taken(0.5, 1)]})
        assert line == "| a row | cannot | 0.5 s (0.5 to 0.5) | - | 2 | - | - |"

    def test_unknown_names_are_refused(self, capsys: Any) -> None:
        with pytest.raises(SystemExit):
            main(["bench", "hosts", "nowhere"])
        assert "no such row: nowhere" in capsys.readouterr().err

    def test_they_are_listed(self, capsys: Any) -> None:
        assert main(["bench", "hosts", "--list"]) == 0
        listed = capsys.readouterr().out.splitlines()
        assert len(listed) == len(bench_hosts.EXPERIMENTS)


class TestTurns:
    def run(self, prepare: Any, rounds: int = 2) -> dict[str, list[float]]:
        experiment = bench_hosts.Experiment("an experiment", prepare, [])
        taken = bench_hosts.run(experiment, MIB, rounds)
        return {name: [each.seconds for each in many] for name, many in taken.items()}

    @pytest.fixture(autouse=True)
    def no_hosts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def stand_in(*args: Any) -> _Nothing:
            return _Nothing()

        monkeypatch.setattr(bench_hosts, "hosts_for_sides", stand_in)

    def test_the_first_round_does_not_count(self) -> None:
        order = []

        def prepare(site: Site) -> None:
            for name, first in (("a", 10.0), ("b", 20.0)):
                numbers = iter([first, first + 1, first + 2])

                def turn(name: str = name, numbers: Iterator[float] = numbers) -> Turn:
                    order.append(f"{name} prepares")
                    yield 0.0
                    yield next(numbers)
                    order.append(f"{name} cleans up")

                site.turns[name] = turn

        assert self.run(prepare) == {"a": [11, 12], "b": [21, 22]}
        # from first to last, and from last to first
        steps = [
            f"{name} {step}" for name in "abbaab" for step in ("prepares", "cleans up")
        ]
        assert order == steps

    def test_who_fails_is_left_out(self, capsys: Any) -> None:
        def fail() -> Turn:
            yield 0.0
            raise AssertionError("it broke")

        def succeed() -> Turn:
            yield 0.0
            yield 1.0

        def prepare(site: Site) -> None:
            site.turns["a"] = fail
            site.turns["b"] = succeed

        assert self.run(prepare) == {"b": [1, 1]}
        assert "a failed: it broke" in capsys.readouterr().err

    def test_what_is_missing_is_told(self, capsys: Any) -> None:
        def make() -> Any:
            raise ModuleNotFoundError("No module named 'proxystore_ex'")

        def prepare(site: Site) -> None:
            assert site.open(make) is None

        assert self.run(prepare) == {}
        assert "cannot: No module named 'proxystore_ex'" in capsys.readouterr().err


class _Nothing:
    """Stands for a network."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def __getitem__(self, name: str) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def spin(state: dict[str, Any], seconds: float) -> None:
    """Use a core for some seconds of its time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    require_hosts()
    with hosts_for_sides(3) as network:
        yield network


@pytest.mark.slow
@pytest.mark.hosts
class TestBytes:
    @pytest.fixture
    def hosts(self, network: Network) -> Iterator[list[Any]]:
        hosts = [network[f"host-{number}"] for number in range(3)]
        yield hosts
        assert [host.shm for host in hosts] == [[], [], []]

    def test_sockets(self, hosts: list[Any]) -> None:
        with sockets(hosts, 3 * MIB) as turn:
            before = hosts[1].traffic.received
            for _ in range(2):
                assert take(turn()) > 0
            assert hosts[1].traffic.received - before > 6 * MIB

    @pytest.mark.parametrize("security", ["clear", "tls"])
    def test_the_connector(self, hosts: list[Any], security: str) -> None:
        with open_stores(hosts, security) as stores:
            before = [host.traffic for host in hosts]
            for _ in range(2):
                assert take(stores.turns(3 * MIB)) > 0
            assert take(stores.turns(3 * MIB, [(0, 1), (0, 2)])) > 0
            now = [host.traffic for host in hosts]
        sent = now[0].sent - before[0].sent
        received = [b.received - a.received for a, b in zip(before, now, strict=True)]
        # every transfer is one: nothing stays from the one before
        assert 4 * 3 * MIB < sent < 4.2 * 3 * MIB
        assert 3 * 3 * MIB < received[1] < 3.2 * 3 * MIB
        assert 3 * MIB < received[2] < 1.2 * 3 * MIB

    def test_proxystore(self, hosts: list[Any]) -> None:
        require_module("proxystore_ex")
        with proxystore(hosts, 3 * MIB) as turn:
            before = hosts[1].traffic.received
            for _ in range(2):
                assert take(turn()) > 0
            assert hosts[1].traffic.received - before > 6 * MIB

    def test_a_table_and_a_file(
        self, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        require_hosts()

        def prepare(site: Site) -> None:
            site.move("theirs", sockets)
            site.store("ours", "clear")

        experiment = bench_hosts.Experiment("bytes", prepare, [ROW])
        monkeypatch.setattr(bench_hosts, "EXPERIMENTS", {"bytes": experiment})
        path = tmp_path / "raw.json"
        args = ["--size", "1 MiB", "--rounds", "2", "--pause", "0", "--json", str(path)]
        assert main(["bench", "hosts", *args]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("| a row | ")
        raw = json.loads(path.read_text())["bytes"]
        assert raw.keys() == {"theirs", "ours"}
        assert len(raw["ours"]["seconds"]) == len(raw["ours"]["cpu_seconds"]) == 2


@pytest.mark.slow
@pytest.mark.hosts
class TestSides:
    def test_plain_dask(self, network: Network) -> None:
        with open_side(network, {0: 1, 1: 2, 2: 1}) as side:
            before = network["host-0"].traffic.sent
            assert take(side.turn(bench_clusters.transfer, MIB)) > 0
            assert network["host-0"].traffic.sent - before > MIB
            assert take(side.turn(bench_clusters.read_by, MIB, 2)) > 0
            assert take(side.turn(bench_clusters.broadcast, MIB, 2)) > 0
            assert take(side.turn(bench_clusters.small, 1024)) > 0
            assert take(side.turn(bench_clusters.overlap, MIB)) > 0

    def test_the_cores_are_counted(self, network: Network) -> None:
        with Agent(network["host-0"]) as agent:
            before = bench_clusters.cpu_seconds(network)
            agent.call(spin, 0.2)
            counted = bench_clusters.cpu_seconds(network) - before
        assert 0.1 < counted < 20
        # a process that is elsewhere does not count
        with Agent() as agent:
            before = bench_clusters.cpu_seconds(network)
            agent.call(spin, 0.2)
            assert bench_clusters.cpu_seconds(network) - before < 0.1

    @pytest.mark.parametrize("connector", [bench_hosts.CLEAR, bench_hosts.ENCRYPTED])
    def test_daskref(self, network: Network, connector: str) -> None:
        nbytes = 8 * MIB
        with open_side(network, {0: 1, 1: 2}, connector=connector) as side:
            before = network["host-1"].traffic.received
            assert take(side.turn(bench_clusters.read_by, nbytes, 2)) > 0
            received = network["host-1"].traffic.received - before
            # two readers, one copy
            assert nbytes < received < 1.3 * nbytes
            assert take(side.turn(bench_clusters.small, 1024)) > 0
            assert take(side.turn(bench_clusters.overlap, nbytes)) > 0
        for host in network:
            wait_until(lambda host=host: not host.shm, f"{host} clean")

    def test_tls(self, tmp_path: Path) -> None:
        require_hosts()
        with (
            hosts_for_sides(2, tmp_path) as network,
            open_side(network, {0: 1, 1: 1}, certificates=tmp_path) as side,
        ):
            assert take(side.turn(bench_clusters.transfer, MIB)) > 0
            assert "key.pem" in os.listdir(tmp_path)

    def test_what_goes_in_band_is_no_time_of_daskref(self, network: Network) -> None:
        with (
            # under `auto`, hosts that are apart share no store
            open_side(network, {0: 1, 1: 1}, connector="shm://") as side,
            pytest.raises(AssertionError, match="went in-band"),
        ):
            take(side.turn(bench_clusters.transfer, 8 * MIB))
