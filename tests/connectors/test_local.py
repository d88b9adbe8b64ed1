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


def test_connectors_with_one_dictionary_find_each_others_objects():
    objects = {}
    with LocalConnector(objects) as one, LocalConnector(objects) as two:
        key = one.put(b"bytes")
        assert two.get(key) == b"bytes"
        assert objects == {key: b"bytes"}
        linked = two.link(key)
        one.evict(key)
        assert list(objects) == [linked]
        with LocalConnector() as other:
            assert other.get(linked) is None
    assert list(objects) == [linked]


def test_a_copy_of_a_connector_has_its_dictionary():
    objects = {}
    with LocalConnector(objects) as connector:
        copy = pickle.loads(pickle.dumps(connector))
        key = copy.put(b"bytes")
        assert list(objects) == [key]
        copy.close()
