"""Users are told of settings that do nothing, and errors are one line that helps."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import dask.config
import distributed
import numpy as np
import pytest
import yaml
from distributed import LocalCluster
from distributed.client import ClosedClientError

import daskref
from daskref import config
from daskref.cli import main
from daskref.config import Settings
from daskref.connectors import FileConnector
from daskref.exceptions import ConfigError, ConnectorError, StoreExistsError
from tests.support.common import large


@pytest.fixture
def told(caplog, monkeypatch):
    """``() -> list[str]``: warnings since, as if nothing had been told before."""
    monkeypatch.setattr(config, "_told", set())
    monkeypatch.setattr(config, "_looked_at", 0)
    caplog.set_level(logging.WARNING, "daskref")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "daskref"]


# Names that are none


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("daskref.treshold", "daskref.threshold"),
        ("daskref.on-failur", "daskref.on-failure"),
        ("daskref.on_fail", "daskref.on-failure"),
        ("daskref.shm.bugdet", "daskref.shm.budget"),
        ("daskref.budget", "daskref.shm.budget"),
        ("daskref.shm-budget", "daskref.shm.budget"),
        ("daskref.zmq.fanout", "daskref.zmq.fan-out"),
        ("daskref.shm.threshold", "daskref.threshold"),
        ("daskref.Threshold", "daskref.threshold"),
        ("daskref_threshold", "daskref.threshold"),
        ("daskref.sing-a-song", None),
    ],
)
def test_unknown_names_are_told_once_with_the_nearest(told, name, near):
    with dask.config.set({name: 5}):
        config.tell_unknown()
        config.tell_unknown()
    (text,) = told()
    assert f"no setting {name}:" in text
    assert (f"Did you mean {near}?" in text) if near else ("Did you mean" not in text)


def test_every_misspelling_of_a_known_name_finds_it(told):
    for field in Settings.__dataclass_fields__:
        full = config.setting_name(field)
        letters = full.removeprefix("daskref.")
        for at in range(0, len(letters), 3):
            name = f"daskref.{letters[:at]}{letters[at + 1 :]}"
            if len(letters) > 6 and "." in (letters[at : at + 1] or "."):
                continue
            near = config._nearest(name)
            assert near is not None, name


def test_known_names_are_not_told(told):
    names = [config.setting_name(field) for field in Settings.__dataclass_fields__]
    changes: dict[str, Any] = {name.replace("-", "_"): 1 for name in names}
    with dask.config.set(changes | {"daskref.connector": {"class": "a:B", "what": 1}}):
        config.tell_unknown()
    assert not told()


def test_names_set_while_a_client_works_are_told(client, told):
    future = client.submit(abs, -1)
    assert not told()
    with dask.config.set({"daskref.treshold": 1}):
        assert client.submit(abs, -2).result() == 2
    assert client.submit(abs, -3).result() == 3
    with dask.config.set({"daskref.treshold": 1}):
        assert client.submit(abs, -4).result() == 4
    (text,) = told()
    assert "daskref.treshold" in text
    assert future.result() == 1


def test_names_in_files_and_in_the_environment_are_told(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "daskref:\n  conector: shm://\n  shm:\n    rot: /tmp\n  zmq:\n"
    )
    environment = {
        "DASK_CONFIG": str(tmp_path),
        "DASK_DASKREF__TRESHOLD": "1",
        "DASK_DASKREF_LEASE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from daskref.cli import main; main(['info'])"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 4, done.stderr
    for near in ("connector", "shm.root", "threshold", "lease"):
        assert f"Did you mean daskref.{near}?" in done.stderr


@pytest.mark.parametrize("section", ["daskref", "daskref.shm", "daskref.zmq"])
def test_a_value_in_the_place_of_a_section_is_an_error(tmp_path, section):
    tree: Any = 5
    for name in reversed(section.split(".")):
        tree = {name: tree}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys; from daskref.cli import main; sys.exit(main(['info']))"],
        env=os.environ | {"DASK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {section}=5 is not valid: expected a mapping")


def test_an_empty_section_is_as_if_it_were_not_there():
    with dask.config.set({"daskref.shm": None}):
        assert Settings.read() == Settings.read(shm_budget=0.8)


def test_info_prints_names_and_values_that_can_be_set(capsys, tmp_path):
    changes = {
        "daskref.threshold": 1234567,
        "daskref.shm.budget": "3 GiB",
        "daskref.shm.root": str(tmp_path),
        "daskref.zmq.port": "5000:5100",
        "daskref.connector": "shm://",
    }
    with dask.config.set(changes):
        before = Settings.read()
        assert main(["info"]) == 0
    lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    printed = {
        line[0]: yaml.safe_load(line[1])
        for line in lines
        if line[0].startswith("daskref.")
    }
    assert len(printed) == len(Settings.__dataclass_fields__)
    with dask.config.set(printed):
        assert Settings.read() == before


def test_info_shows_no_password(capsys):
    secret = {"class": "no.such:Class", "password": "hidden", "access-key": "hidden"}
    nested = {"class": "no.such:Class", "connectors": {"far": [secret, None]}}
    for spec in (secret, nested, "redis://user:hidden@127.0.0.1:1/0?retries=0"):
        with dask.config.set({"daskref.connector": spec}):
            main(["info"])
        assert "hidden" not in capsys.readouterr().out


# Values: whatever is given for whatever setting

NAN, INFINITY = float("nan"), float("inf")
VALUES = [
    *[None, True, False, 0, 1, -1, 1.5, -0.5, NAN, INFINITY, 10**400, 1e300, 2 + 1j],
    *["", " ", "1", "-1", "nan", "inf", "1e400", "1 parsec", "1 MiB", "30s", "null"],
    *[
        "1 MiB 1",
        "0x10",
        "1_000",
        "५",
        "\0",
        "é",
        "x" * 10_000,
        "shm://",
        "://",
        "auto",
    ],
    *[b"1", bytearray(b"1"), [], [1], (), (1,), {}, {"a": 1}, {"class": 5}, set()],
    *[np.float64(NAN), np.int64(-1), np.array([1]), np.array(1), np.str_("1 MiB")],
    *[Path("/somewhere"), object(), Settings, len, range(3), "inband", "curve"],
]


def _refusal(field: str, value: object) -> str | None:
    """Return how a value is refused; else check what it was taken for."""
    setting = config.setting_name(field)
    with dask.config.set({setting: value}):
        try:
            taken = vars(Settings.read())[field]
        except ConfigError as exc:
            return str(exc)
    assert taken == taken, f"{value!r} was taken as NaN"
    assert not isinstance(taken, int | float) or taken >= 0
    with dask.config.set({setting: taken}):  # it is valid itself, and means the same
        assert vars(Settings.read())[field] == taken
    return None


@pytest.mark.parametrize("field", sorted(Settings.__dataclass_fields__))
def test_any_value_is_taken_or_refused_by_name(field):
    refusals = list(filter(None, (_refusal(field, value) for value in VALUES)))
    assert len(refusals) > len(VALUES) / 4
    for text in refusals:
        assert text.startswith(f"{config.setting_name(field)}=")
        assert "expected " in text
        assert "\n" not in text


# Several clients


def test_a_later_client_is_told_what_holds(told):
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        daskref.Client(cluster, connector="shm://", threshold="2 MiB"),
    ):
        assert not told()
        with daskref.Client(cluster):
            assert not told()  # it has asked for nothing
        with (
            dask.config.set({"daskref.results": "on-completion"}),
            daskref.Client(cluster, connector="auto", threshold="1 kiB"),
        ):
            threshold, rest = told()
        assert "daskref.threshold is 1 KiB for what this client sends" in threshold
        assert "2 MiB for results" in threshold
        assert "daskref.connector is shm://, not auto" in rest
        assert "daskref.results is on-transfer, not on-completion" in rest
        with distributed.Client(cluster) as plain:
            daskref.enable(plain, connector="redis://user:hidden@host")
            assert "not redis://***@host" in told()[-1]
            daskref.disable(plain)


def test_a_clients_own_threshold_holds_whatever_is_configured_later(cluster, puts):
    before = puts()
    with daskref.Client(cluster, threshold="4 kB") as client:
        array = np.arange(1000)
        with dask.config.set({"daskref.threshold": "1 GiB"}):
            assert client.submit(len, array).result() == 1000
        assert puts() == before + 1
    changes = {"daskref.threshold": "4 kB"}
    with daskref.Client(cluster) as client, dask.config.set(changes):
        assert client.submit(len, np.arange(1001)).result() == 1001
        assert puts() == before + 2


# What is no client, and what is no connector


@pytest.mark.parametrize("verb", ["enable", "disable", "stats"])
def test_what_is_no_client_is_told_what_to_do(cluster, verb):
    call = getattr(daskref, verb)
    with pytest.raises(TypeError, match=r"use daskref\.Client\(cluster\)"):
        call(cluster)
    with pytest.raises(TypeError, match=r"use daskref\.Client\('tcp://"):
        call(cluster.scheduler_address)
    with pytest.raises(TypeError, match=f"daskref.{verb} takes a client"):
        call(None)


def test_a_closed_client_cannot_be_enabled(cluster):
    with distributed.Client(cluster) as client:
        pass
    with pytest.raises(ClosedClientError, match="make a new one"):
        daskref.enable(client)


def test_a_store_opens_what_a_spec_names(tmp_path):
    with daskref.Store("by-spec", f"file://{tmp_path}/store", register=True) as store:
        assert isinstance(store.connector, FileConnector)
        proxy = store.proxy([1, 2, 3])
        assert sum(proxy) == 6
        with pytest.raises(StoreExistsError):
            daskref.Store("by-spec", f"file://{tmp_path}/other", register=True)
        assert list(tmp_path.iterdir()) == [tmp_path / "store"]
    spec = {"class": "daskref.connectors:LocalConnector"}
    with daskref.Store("by-mapping", spec) as store:
        assert store.get(store.put(5)) == 5


@pytest.mark.parametrize(
    ("connector", "told"),
    [
        (None, "expected a connector, a spec such as"),
        (Path("/shared"), "did you mean file:///shared"),
        ("/shared", "did you mean file:///shared"),
        ("fille:///shared", "did you mean file://"),
        (FileConnector, "expected a connector"),
        (5, "expected a connector"),
    ],
)
def test_what_is_no_connector_is_told_what_to_do(connector, told):
    with pytest.raises(ConfigError) as caught:
        daskref.Store("none", connector)
    assert told in str(caught.value)


# Errors at the door


@pytest.mark.parametrize(
    "options",
    [
        {"connector": "shmm://"},
        {"connector": "shm://?bugdet=1"},
        {"connector": "file:///proc/nowhere", "on-failure": "raise"},
        {"connector": "redis://127.0.0.1:1?retries=0", "on-failure": "raise"},
        {"connector": 5},
        {"threshold": "lots"},
    ],
)
def test_an_error_of_the_session_is_one_line_and_few_frames(options):
    options = dict(options)
    changes = {
        f"daskref.{name}": options.pop(name) for name in list(options) if "-" in name
    }
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as plain,
        dask.config.set(changes),
    ):
        for make in (
            lambda: daskref.Client(cluster, **options),
            lambda: daskref.enable(plain, **options),
        ):
            with pytest.raises((ConfigError, ConnectorError)) as caught:
                make()
            shown = traceback.format_exception(caught.value)
            text = "".join(shown)
            assert text.count("Traceback") == 1, text
            assert len(text.splitlines()) < 20, text
            assert "\n" not in str(caught.value)
        assert plain.submit(len, large()[:9]).result() == 9 if plain.ncores() else True
