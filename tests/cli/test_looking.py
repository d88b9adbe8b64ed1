"""Commands that look: ``info``, ``stats``, ``objects``, ``top``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

import daskref
from daskref import __version__
from daskref.cli import main
from daskref.testing.certificates import make_certificate
from tests.support.common import large, processes, start_scheduler


def test_info(capsys: Any) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"daskref {__version__}" in out
    assert "daskref.threshold              1 MiB" in out
    assert "would use <ZmqConnector " in out
    assert "works: a value of 1 MiB came back as it was" in out


def test_info_shows_what_is_configured(capsys: Any, tmp_path: Path) -> None:
    options = {
        "daskref.threshold": "5 MiB",
        "daskref.connector": f"file://{tmp_path}/store",
    }
    with dask.config.set(options):
        assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "daskref.threshold              5 MiB" in out
    assert f"would use <FileConnector {tmp_path}/store>" in out
    assert not list(tmp_path.iterdir())  # and takes it away again


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("daskref.threshold", "many", "daskref.threshold='many' is not valid"),
        ("daskref.connector", "shmm://", "did you mean shm://?"),
        ("daskref.connector", "file:///proc/no", "cannot be made"),
        ("daskref.shm.root", "/no/such/place", "/no/such/place"),
        ("daskref.shm.budget", "a lot", "daskref.shm.budget"),
    ],
)
def test_bad_settings_are_one_line(
    capsys: Any, setting: str, value: str, told: str
) -> None:
    with dask.config.set({setting: value}):
        assert main(["info"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1


def unusable(kind: str, tmp_path: Path) -> str:
    """Return a directory that objects cannot go to."""
    if kind == "missing":
        return str(tmp_path / "missing")
    if kind == "a file":
        (tmp_path / "file").touch()
        return str(tmp_path / "file")
    return "/proc"  # on which not even root makes anything


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such file or directory"),
        ("a file", "Not a directory"),
        ("read-only", "No such file or directory"),
    ],
)
@pytest.mark.parametrize("connector", ["auto", "shm://", "zmq://", "option", "multi"])
def test_info_tells_a_spill_directory_that_cannot_be_used(
    capsys: Any, tmp_path: Path, kind: str, reason: str, connector: Any
) -> None:
    path, advice = unusable(kind, tmp_path), "Set daskref.spill-directory to"
    options: dict[str, Any] = {"daskref.spill-directory": path}
    if connector in ("option", "multi"):
        advice = "Set the option spill_directory of daskref.connector"
        connector, options = f"shm://?spill_directory={path}", {}
        if connector == "multi":
            children = {"a": [connector, None]}
            connector = {
                "class": "daskref.connectors:MultiConnector",
                "connectors": children,
            }
    with dask.config.set({**options, "daskref.connector": connector}):
        assert main(["info"]) == 1
    out = capsys.readouterr().out
    assert "works: a value of 1 MiB came back as it was" in out
    assert "does not work: what shared memory has no room for cannot go to disk" in out
    assert f"{path} cannot be used ({reason})" in out
    assert advice in out
    assert len(list(tmp_path.iterdir())) == (kind == "a file")


def test_info_tells_where_an_unusable_directory_for_temporary_files_is_from(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    assert main(["info"]) == 1
    told = "Set daskref.spill-directory, which is null, or TMPDIR to"
    assert told in capsys.readouterr().out


def test_info_asks_no_spill_directory_of_a_store_without(
    capsys: Any, tmp_path: Path
) -> None:
    options = {
        "daskref.spill-directory": "/no/such",
        "daskref.connector": f"file://{tmp_path}/store",
    }
    with dask.config.set(options):
        assert main(["info"]) == 0
    assert "does not work" not in capsys.readouterr().out


def test_info_as_json(capsys: Any) -> None:
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == __version__
    assert told["settings"]["daskref.threshold"] == "1 MiB"
    assert told["space"]["budget"] > 0
    assert not told["problems"]


# A cluster that has daskref


def double(x: Any) -> Any:
    return 2 * x


@pytest.fixture
def stored(client: Any) -> Iterator[Any]:
    """Three objects: an argument, a result, and a value that was scattered."""
    scattered = client.scatter(large(nbytes=3 << 20))
    future = client.submit(double, large(), key=("double", 7))
    future.result()
    yield client
    del scattered, future


def address(client: Any) -> str:
    return str(client.scheduler.address)


def told_at_once(err: str) -> list[str]:
    """Return the lines on stderr but those that say what takes long."""
    return [line for line in err.splitlines() if not line.startswith("… ")]


def as_json(capsys: Any, *argv: str) -> Any:
    assert main([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert not told_at_once(err)
    return json.loads(out)


def test_info_of_a_cluster(capsys: Any, client: Any) -> None:
    told = as_json(capsys, "info", address(client))
    assert told["version"] == __version__
    assert (told["workers"], told["threads"]) == (2, 4)
    assert told["connector"] == "auto"
    assert main(["info", address(client)]) == 0
    out = capsys.readouterr().out
    assert f"daskref {__version__} is on at {address(client)}" in out
    assert "2, with 4 threads" in out


def test_stats_are_those_of_a_client(capsys: Any, stored: Any) -> None:
    told = as_json(capsys, "stats", address(stored))
    want = daskref.stats(stored)
    for name in ("objects", "bytes", "memory", "puts", "budget"):
        assert told[name] == want[name]
    assert main(["stats", address(stored)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["host", "objects", "bytes"]
    assert row.split()[:2] == [socket.gethostname(), str(want["objects"])]


def test_objects_are_those_of_a_client(capsys: Any, stored: Any) -> None:
    told = as_json(capsys, "objects", address(stored))
    want = daskref.list_objects(stored)
    assert [each["key"] for each in told] == [each.key for each in want]
    assert len(want) == 3
    assert main(["objects", address(stored)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == list(want.fields)
    assert [row.split()[0] for row in rows] == [each.key for each in want]


def test_objects_sorted_filtered_and_limited(capsys: Any, stored: Any) -> None:
    def listed(*argv: str) -> list[Any]:
        return as_json(capsys, "objects", address(stored), *argv)  # type: ignore

    sizes = [each["nbytes"] for each in listed()]
    assert [each["nbytes"] for each in listed("--reverse")] == sizes[::-1]
    keys = [each["key"] for each in listed("--sort", "key", "--reverse")]
    assert keys == sorted(keys)
    shapes = [each["shape"] for each in listed("--sort", "shape")]
    assert shapes[-1] is None  # a result tells none
    of_task = listed("--where", "prefixes=dou*")
    assert len(of_task) == 2
    assert len(listed("--where", "prefixes=dou*", "--where", "shape=262144")) == 1
    assert len(listed("--larger", "2.5 MiB")) == 1
    assert len(listed("--limit", "2")) == 2
    assert main(["objects", address(stored), "--limit", "1"]) == 0
    assert "… and 2 more" in capsys.readouterr().out
    assert main(["objects", address(stored), "--among", "2"]) == 0
    assert "Only the 2 largest" in capsys.readouterr().err


def test_top_looks_as_often_as_it_is_told(capsys: Any, stored: Any) -> None:
    told = as_json(capsys, "top", address(stored), "--once", "--limit", "1")
    assert told["stats"]["objects"] == 3
    (largest,) = told["objects"]
    assert largest["nbytes"] > 3 << 20
    argv = ["top", address(stored), "--count", "2", "--interval", "1 ms"]
    assert main(argv) == 0
    first, second = capsys.readouterr().out.split("\n\ndaskref at ")
    assert "puts/s" not in first
    assert "puts/s" in second
    assert "bytes_kept/s" in second


def test_top_on_a_terminal_draws_over_what_was_there(
    capsys: Any, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "6")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["top", address(stored), "--count", "2", "--interval", "1 ms"]) == 0
    nothing, *frames = capsys.readouterr().out.split("\x1b[H")
    assert not nothing
    assert len(frames) == 2
    for frame in frames:
        *lines, end = frame.split("\x1b[K\n")
        assert end == "\x1b[J\n"
        assert lines[0].startswith(f"daskref at {address(stored)}"[:40])
        assert len(lines) == 5
        assert max(map(len, lines)) == 40


@pytest.mark.slow
def test_top_ends_with_ctrl_c(stored: Any) -> None:
    command = [sys.executable, "-m", "daskref.cli", "top", address(stored), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["stats"]["objects"] == 3
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert (running.returncode, told_at_once(err)) == (0, [])


def test_looking_puts_nothing_and_takes_no_part(
    capsys: Any, cluster: Any, client: Any, puts: Any
) -> None:
    clients = set(cluster.scheduler.clients)
    events = len(client.get_events("daskref"))
    for command in (["info"], ["stats"], ["objects"], ["top", "--once"]):
        assert main([*command, address(client)]) == 0
    assert set(cluster.scheduler.clients) == clients
    assert len(client.get_events("daskref")) == events
    assert not puts()


def test_names_of_a_cluster_do_not_command_the_terminal(
    capsys: Any, client: Any
) -> None:
    future = client.submit(double, large(), key="\x1b[31mred\nnews\u202e-7")
    future.result()
    for command in (["objects"], ["top", "--once"]):
        assert main([*command, address(client)]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert r"\x1b[31mred\nnews" in out
    assert r"\u001b[31mred\nnews" in _raw_json(capsys, client)
    del future


def _raw_json(capsys: Any, client: Any) -> str:
    assert main(["objects", address(client), "--json"]) == 0
    return str(capsys.readouterr().out)


# Clusters that have it not, or do not answer

LOOKING = [["info"], ["stats"], ["objects"], ["top"]]


@pytest.fixture(scope="module")
def plain() -> Iterator[Any]:
    """A scheduler and a worker, each started by its command."""
    with processes(workers=1) as started:
        yield started


def fails(capsys: Any, status: int, *argv: str) -> str:
    """Check that a command ends with one line and a status; return the line."""
    assert main([*argv]) == status
    out, err = capsys.readouterr()
    assert not out
    (line,) = told_at_once(err)
    assert line.startswith("error: ")
    return line


@pytest.mark.slow
@pytest.mark.parametrize("command", LOOKING, ids=str)
def test_a_cluster_without_daskref_stays_so(
    capsys: Any, plain: Any, command: list[str]
) -> None:
    scheduler, _ = plain
    with dask.config.set({"distributed.client.preload": ["daskref"]}):
        told = fails(capsys, 4, *command, scheduler.address)
    assert f"daskref is off on {scheduler.address}" in told
    told = fails(capsys, 4, *command, scheduler.address.removeprefix("tcp://"))
    assert "daskref is off" in told  # and it is still


@pytest.mark.parametrize("command", [*LOOKING, ["doctor"]], ids=str)
def test_an_address_at_which_nobody_listens(capsys: Any, command: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{taken.getsockname()[1]}"
        told = fails(capsys, 3, *command, there, "--timeout", "200 ms")
    assert f"tcp://{there} cannot be reached" in told


@pytest.mark.slow
def test_an_address_of_something_else(capsys: Any, plain: Any) -> None:
    _, (worker,) = plain
    (line,) = [line for line in worker.lines if "Start worker at" in line]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        told = fails(capsys, 3, "stats", there, "--timeout", "200 ms")
        assert f"{there} cannot be reached" in told
    assert "is no scheduler" in fails(capsys, 3, "stats", line.split()[-1])


@pytest.mark.slow
def test_a_scheduler_that_hangs(capsys: Any) -> None:
    with processes(workers=0) as (scheduler, _):
        os.kill(scheduler.pid, signal.SIGSTOP)
        try:
            argv = ["stats", scheduler.address, "--timeout", "500 ms"]
            told = fails(capsys, 3, *argv)
        finally:
            os.kill(scheduler.pid, signal.SIGCONT)
    assert "cannot be reached" in told


@pytest.mark.slow
def test_tls_as_dasks_commands_have_it(capsys: Any, tmp_path: Path) -> None:
    scheduler = start_scheduler("--protocol", "tls", env=make_certificate(tmp_path))
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    argv = ["stats", scheduler.address]
    given = ["--tls-ca-file", certificate, "--tls-cert", certificate, "--tls-key", key]
    try:
        told = fails(capsys, 4, *argv, *given)
        assert "daskref is off" in told  # so it has answered
        plain = scheduler.address.removeprefix("tls://")
        fails(capsys, 4, "stats", plain, *given)
        fails(capsys, 3, *argv, "--timeout", "1 s")
        given[1] = key  # which is no certificate
        assert "TLS cannot be used" in fails(capsys, 1, *argv, *given)
    finally:
        scheduler.stop()
