from __future__ import annotations

import json
import os

import pytest

from daskref.connectors.processes import gone, own
from tests.connectors.processes import Child


def test_it_is_told_apart_from_all_others():
    child = Child(
        "from daskref.connectors.processes import own\nsay(own())\ninput()", {}
    )
    try:
        described = json.loads(own())
        theirs = eval(child.line())
        assert not gone(own())
        assert not gone(theirs)
        child.kill()
        assert gone(theirs)
    finally:
        child.end()
    # another has its number meanwhile
    assert gone(json.dumps({**described, "started": "1"}))
    assert described["pid"] == os.getpid()


@pytest.mark.parametrize("name", ["host", "boot", "namespace"])
def test_nothing_is_known_of_what_runs_elsewhere(name):
    elsewhere = {**json.loads(own()), "started": "1", name: "other"}
    assert not gone(json.dumps(elsewhere))


@pytest.mark.parametrize("described", ["", "{}", "[]", "5", "null", '{"pid": 1}'])
def test_what_it_does_not_understand(described):
    assert not gone(described)
