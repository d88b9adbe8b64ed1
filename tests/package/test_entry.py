"""Registration by entry point: it works, and never gets in the way of an import."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def python(tmp_path):
    """Run code where daskref's entry point is installed, whether or not it is here."""
    info = tmp_path / "daskref_entry_test-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: daskref_entry_test\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[dask.sizeof]\ndaskref = daskref.entry:register_sizeof\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return done.stdout.strip()

    return run


@pytest.mark.parametrize(
    "first",
    [
        "dask",
        "dask.sizeof",
        "dask.tokenize",
        "dask.array",
        "distributed",
        "distributed.protocol",
        "distributed.protocol.serialize",
        "daskref",
        "daskref.cluster.family",
        "daskref.config",
    ],
)
def test_whatever_is_imported_first(python, first):
    out = python(
        f"import {first}\n"
        "import distributed\n"
        "from distributed.protocol.serialize import families\n"
        "print('daskref' in families)"
    )
    assert out == "True"


def test_dask_alone_brings_in_nothing(python):
    out = python(
        "import sys, dask, distributed\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'daskref'])"
    )
    assert out == "['daskref', 'daskref.entry']"


def test_dask_does_not_bring_in_more_than_without_daskref(python):
    """All who import Dask pay for it, and CPU time would be hard to compare."""
    code = "import sys, dask; print(*sys.modules)"
    stub = (
        "import sys; sys.modules['daskref.entry'] = sys; "
        "sys.register_sizeof = lambda sizeof: None; "
    )
    more = set(python(code).split()) - set(python(stub + code).split())
    assert more == {"daskref"}


def test_a_module_that_was_waited_for_is_as_any_other(python):
    out = python(
        "import importlib, inspect, sys, distributed\n"
        "one = importlib.import_module('distributed.protocol.serialize')\n"
        "other = importlib.import_module('distributed.protocol.core')\n"
        "print(vars(one.__loader__).keys() == vars(other.__loader__).keys(),\n"
        "      'def serialize' in inspect.getsource(one),\n"
        "      [f for f in sys.meta_path if type(f).__module__ == 'daskref.entry'])"
    )
    assert out == "True True []"


def test_a_plain_process_uses_the_family(python):
    out = python(
        "from distributed.protocol import serialize, deserialize\n"
        "header, frames = serialize(1, serializers=['daskref', 'pickle'])\n"
        "print(header['serializer'], deserialize(header, frames))"
    )
    assert out == "pickle 1"


def test_proxies_are_known(python):
    out = python(
        "from dask.sizeof import sizeof\n"
        "from distributed.protocol import serialize\n"
        "from daskref import Proxy\n"
        "def one(): return 1\n"
        "p = Proxy(one)\n"
        "header, frames = serialize(p, serializers=['dask'])\n"
        "print(sizeof(p) < 1000, header['serializer'])"
    )
    assert out == "True dask"


def test_the_entry_point_is_declared():
    declared = [ep for ep in entry_points(group="dask.sizeof") if ep.name == "daskref"]
    for entry in declared:  # none, if daskref is not installed but run from its source
        assert entry.value == "daskref.entry:register_sizeof"
