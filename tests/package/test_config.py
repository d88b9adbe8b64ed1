"""Settings: defaults, descriptions, checks, environment."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import pytest
import yaml

from daskref import config
from daskref.config import Settings, threshold
from daskref.exceptions import ConfigError

DOCS = Path(__file__).parents[2] / "docs"
TYPES = {
    "integer": int,
    "number": (int, float),
    "string": str,
    "object": dict,
    "null": type(None),
}


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from leaves(value, name)
        else:
            yield name, value


def described(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in schema["properties"].items():
        name = f"{path}.{key}" if path else key
        if "properties" in value:
            yield from described(value, name)
        else:
            yield name, value


DEFAULTS = dict(leaves(config.defaults()))
SCHEMA = dict(
    described(
        yaml.safe_load(files("daskref").joinpath("daskref-schema.yaml").read_text())
    )
)


def test_defaults_and_schema_list_the_same_settings():
    assert DEFAULTS.keys() == SCHEMA.keys()


def test_settings_reads_every_setting():
    read = {f"daskref.{setting}" for setting, _ in config._FIELDS.values()}
    assert read == DEFAULTS.keys()
    assert config._FIELDS.keys() == Settings.__dataclass_fields__.keys()


@pytest.mark.parametrize("name", sorted(SCHEMA))
def test_each_setting_is_described_typed_and_documented(name):
    entry, default = SCHEMA[name], DEFAULTS[name]
    assert entry["description"].strip()
    types = entry["type"] if isinstance(entry["type"], list) else [entry["type"]]
    assert any(isinstance(default, TYPES[kind]) for kind in types)
    assert default in entry.get("enum", [default])
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    shown = "null" if default is None else f"{default}"
    assert f"| `{name.removeprefix('daskref.')}` | `{shown}` |" in text


def test_defaults():
    settings = Settings.read()
    assert settings == Settings(
        threshold=2**20,
        connector="auto",
        on_failure="inband",
        results="on-transfer",
        timeout=30.0,
        latency=0.001,
        lease=600.0,
        retry_interval=10.0,
        reconcile_interval=30.0,
        reconcile_grace=60.0,
        spill_directory=None,
        shm_root=None,
        shm_budget=0.8,
        shm_recycle=0.25,
        shm_recycle_idle=30.0,
        prefetch=2**30,
        security_transport="auto",
        security_sign="auto",
        zmq_interface=None,
        zmq_port=0,
        zmq_advertise=None,
        zmq_fan_out=2,
    )
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_defaults_hold_in_a_cleared_configuration():
    saved = dict(dask.config.config)
    dask.config.config.clear()
    try:
        assert Settings.read().threshold == threshold() == 2**20
    finally:
        dask.config.config.update(saved)


def test_defaults_are_handed_over_once():
    before = len(dask.config.defaults)
    config.ensure_defaults()
    assert len(dask.config.defaults) == before


def test_configured_values_and_overrides():
    with dask.config.set({"daskref.on_failure": "raise", "daskref.timeout": 2}):
        assert Settings.read().on_failure == "raise"
        assert Settings.read(timeout="1 minute").timeout == 60.0
        assert Settings.read(timeout=None).timeout == 2.0


def test_unknown_override():
    with pytest.raises(TypeError, match="treshold"):
        Settings.read(treshold=1)


@pytest.mark.parametrize(
    ("value", "nbytes"),
    [
        ("1 MiB", 2**20),
        ("1.5 kB", 1500),
        ("500", 500),
        (0, 0),
        (5e5, 500_000),
        (np.int64(7), 7),
    ],
)
def test_sizes(value, nbytes):
    assert Settings.read(threshold=value).threshold == nbytes
    with dask.config.set({"daskref.threshold": value}):
        assert threshold() == nbytes


NAN = float("nan")
MALFORMED = [
    ("threshold", "daskref.threshold", ["abc", "", " ", -1, "-5 MB", True, NAN, [1]]),
    ("threshold", "daskref.threshold", ["1e999", float("inf"), "1 MiB too"]),
    ("connector", "daskref.connector", ["", "shm", 5, {"options": 1}, True]),
    ("on_failure", "daskref.on-failure", ["explode", True, 0]),
    ("results", "daskref.results", ["never", False]),
    ("latency", "daskref.latency", ["", "soon", "Dask", -1, "-1ms", NAN, True]),
    ("lease", "daskref.lease", ["", "soon", 0, -1, "-5s", NAN, True]),
    ("timeout", "daskref.timeout", ["10 parsecs", 0]),
    ("retry_interval", "daskref.retry-interval", [0]),
    ("reconcile_interval", "daskref.reconcile-interval", [0]),
    ("reconcile_grace", "daskref.reconcile-grace", ["x"]),
    ("spill_directory", "daskref.spill-directory", ["", 3]),
    ("shm_root", "daskref.shm.root", ["", 3]),
    ("shm_budget", "daskref.shm.budget", [-0.1, "much", True, NAN, 1.5, 80, "1.5"]),
    ("shm_recycle", "daskref.shm.recycle", [-1, "-1", 1.5, "25"]),
    ("prefetch", "daskref.prefetch", ["", -1, "lots", True]),
    ("security_transport", "daskref.security.transport", ["curve", "", True]),
    ("security_sign", "daskref.security.sign", ["yes", "", 1]),
    ("zmq_interface", "daskref.zmq.interface", ["", " ", 3]),
    ("zmq_port", "daskref.zmq.port", [-1, 65536, "7:5", "0:5", "any", True, 5.5, ""]),
    ("zmq_advertise", "daskref.zmq.advertise", ["", 5, "a:", "a:0", "a:x", ":5"]),
    ("zmq_advertise", "daskref.zmq.advertise", ["[fd00::1", "[a]:5", "fd00::1::5"]),
    ("zmq_fan_out", "daskref.zmq.fan-out", [0, -1, 1.5, "two", True, NAN, "²"]),
]


@pytest.mark.parametrize(
    ("field", "setting", "value"),
    [(field, setting, v) for field, setting, values in MALFORMED for v in values],
)
def test_malformed_values_name_the_setting_and_what_is_valid(field, setting, value):
    with dask.config.set({setting: value}), pytest.raises(ConfigError) as caught:
        Settings.read()
    assert caught.value.setting == setting
    assert caught.value.value is value
    assert setting in str(caught.value)
    assert "expected " in str(caught.value)


def test_fractions_and_sizes():
    assert Settings.read(shm_budget=1).shm_budget == 1.0
    assert isinstance(Settings.read(shm_budget=1).shm_budget, float)
    assert Settings.read(shm_budget="80%").shm_budget == 0.8
    assert Settings.read(shm_budget="0.8").shm_budget == 0.8
    size = Settings.read(shm_budget="1 GiB").shm_budget
    assert size == 2**30
    assert isinstance(size, int)


def test_places_to_serve_are_kept_as_they_were_given():
    for port in (0, 5000, "5000", "5000:5100"):
        assert Settings.read(zmq_port=port).zmq_port == port
    for place in ("10.0.0.1", "node-7.example:5000", "fd00::1", "[fd00::1]:5000"):
        assert Settings.read(zmq_advertise=place).zmq_advertise == place
    assert Settings.read(zmq_interface="ib0").zmq_interface == "ib0"


def test_counts():
    assert Settings.read(zmq_fan_out="3").zmq_fan_out == 3
    assert Settings.read(zmq_fan_out=np.int64(4)).zmq_fan_out == 4


def test_connector_mapping():
    spec = {"class": "somewhere:Connector", "port": 3}
    with dask.config.set({"daskref.connector": spec}):
        assert Settings.read().connector == spec


def test_threshold_follows_the_configuration():
    assert threshold() == 2**20
    with dask.config.set({"daskref.threshold": "2 MiB"}):
        assert threshold() == 2**21
        with dask.config.set({"daskref.threshold": 1}):
            assert threshold() == 1
            with (
                dask.config.set({"daskref.threshold": True}),
                pytest.raises(ConfigError, match=r"daskref\.threshold"),
            ):
                threshold()
    assert threshold() == 2**20


def test_environment():
    code = (
        "from daskref.config import Settings, threshold\n"
        "s = Settings.read()\n"
        "print(threshold(), s.threshold, s.on_failure, s.shm_budget, s.lease)\n"
        "print(s.zmq_interface, s.zmq_port, s.zmq_advertise, s.zmq_fan_out)"
    )
    environment = {
        "DASK_DASKREF__THRESHOLD": "3 MiB",
        "DASK_DASKREF__ON_FAILURE": "raise",
        "DASK_DASKREF__SHM__BUDGET": "64 MiB",
        "DASK_DASKREF__ZMQ__INTERFACE": "fd00::7",
        "DASK_DASKREF__ZMQ__PORT": "41000:41009",
        "DASK_DASKREF__ZMQ__ADVERTISE": "203.0.113.7",
        "DASK_DASKREF__ZMQ__FAN_OUT": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    nbytes = str(3 * 2**20)
    first, second = done.stdout.splitlines()
    assert first.split() == [nbytes, nbytes, "raise", str(2**26), "600.0"]
    assert second.split() == ["fd00::7", "41000:41009", "203.0.113.7", "3"]
