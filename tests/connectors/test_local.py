from __future__ import annotations

import pickle

import pytest

from daskref.connectors import LocalConnector, LocalKey
from daskref.exceptions import ConnectorUnavailableError


def test_get_returns_a_writable_copy():
    with LocalConnector() as connector:
        key = connector.put(b"bytes")
        assert isinstance(key, LocalKey)
        view = connector.get(key)
        view[0] = 0
        assert connector.get(key) == b"bytes"


def test_connectors_with_one_id_share_until_the_last_closes():
    first = LocalConnector()
    second = pickle.loads(pickle.dumps(first))
    key = first.put(b"bytes")
    first.close()
    assert second.get(key) == b"bytes"
    second.close()
    with pytest.raises(ConnectorUnavailableError):
        LocalConnector(**second.config())


def test_another_process_does_not_have_it(child):
    with LocalConnector() as connector:
        process = child(
            "from daskref.connectors.local import LocalConnector\n"
            "try:\n    LocalConnector(**config)\n"
            "except Exception as exc:\n    say(type(exc).__name__)",
            config=connector.config(),
        )
        assert process.line() == "'ConnectorUnavailableError'"


def test_two_stores_are_apart():
    with LocalConnector() as one, LocalConnector() as two:
        assert two.get(one.put(b"bytes")) is None
