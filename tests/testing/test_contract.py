from __future__ import annotations

import pytest

from daskref.connectors import LocalConnector
from daskref.testing import RULES, check_connector


def only(rule):
    return RULES.keys() - {rule}


class Broken(LocalConnector):
    """Has one fault."""


class ForgetsNothing(Broken):
    def evict(self, key):
        pass


class LosesTheLastByte(Broken):
    def put_frames(self, frames):
        return super().put_frames([b"".join(map(bytes, frames))[:-1]])


class HandsOutItsOwn(Broken):
    def put_frames(self, frames):
        key = super().put_frames(frames)
        objects = self._shelf.objects
        objects[key] = bytearray(objects[key])
        return key

    def get(self, key):
        found = self._open().objects.get(key)
        return None if found is None else memoryview(found)


class TakesAnyKey(Broken):
    def exists(self, key):
        return False


class NeverCloses(Broken):
    def close(self):
        pass


class CountsWrong(Broken):
    def usage(self):
        return super().usage()._replace(nbytes=0)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (ForgetsNothing, "missing"),
        (LosesTheLastByte, "frames"),
        (HandsOutItsOwn, "private"),
        (TakesAnyKey, "foreign-keys"),
        (NeverCloses, "closing"),
        (CountsWrong, "usage"),
    ],
)
def test_a_broken_connector_fails_by_the_name_of_the_rule(broken, rule):
    with pytest.raises(AssertionError, match=f"^{rule}: "):
        check_connector(broken, relax=only(rule))


def test_unknown_rules_cannot_be_relaxed():
    with pytest.raises(ValueError, match="no such rules: \\['speed'\\]"):
        check_connector(LocalConnector, relax={"speed"})


def test_a_protocol_of_proxystore_is_enough_for_its_methods():
    class Minimal:
        """Only what ProxyStore's protocol has, and strict on keys and closing."""

        def __init__(self, inner=None):
            self._inner = inner or LocalConnector()

        def __getattr__(self, name):
            if name in {"put_frames", "link", "renew", "usage", "evict_batch"}:
                raise AttributeError(name)
            return getattr(self._inner, name)

    check_connector(
        Minimal, relax={"configuration", "processes", "round-trips", "views-outlive"}
    )
