from __future__ import annotations

import pickle
import socket
import sys

import pytest

from daskref import Store
from daskref.connectors import (
    FileConnector,
    FileKey,
    LocalConnector,
    LocalKey,
    MultiConnector,
    MultiKey,
    Policy,
    SharedMemoryConnector,
    SharedMemoryKey,
    open_connector,
)
from daskref.connectors.base import Connector, Usage
from daskref.connectors.registry import connector_path, load_connector
from daskref.exceptions import (
    ConfigError,
    ConnectorClosedError,
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)
from daskref.testing import RULES, check_connector
from tests.support.requirements import require_module

HERE = socket.gethostname()
SLOW = {"processes", "round-trips", "views-outlive"}


@pytest.mark.parametrize(
    "rule", [pytest.param(r, marks=pytest.mark.slow) if r in SLOW else r for r in RULES]
)
def test_keeps_the_contract(rule, tmp_path):
    def make():
        return MultiConnector(
            {
                "large": (f"file://{tmp_path}/shared", {"min-size-bytes": "50 kB"}),
                "small": (SharedMemoryConnector(spill_directory=tmp_path), Policy()),
            }
        )

    check_connector(make, relax=RULES.keys() - {rule})


@pytest.fixture
def two():
    """Small objects, up to 10 bytes, and large ones."""
    small, large = LocalConnector(), LocalConnector()
    with MultiConnector(
        {
            "small": (small, Policy(max_size_bytes=10)),
            "large": (large, Policy(min_size_bytes=11)),
        }
    ) as connector:
        yield connector, small, large


class TestPolicy:
    """The semantics of ProxyStore's, and types."""

    @pytest.mark.parametrize(
        ("policy", "given", "valid"),
        [
            ({}, {}, True),
            ({}, {"size_bytes": sys.maxsize, "type_name": "a.B"}, True),
            ({"min_size_bytes": 5}, {"size_bytes": 4}, False),
            ({"min_size_bytes": 5}, {"size_bytes": 5}, True),
            ({"max_size_bytes": 5}, {"size_bytes": 5}, True),
            ({"max_size_bytes": 5}, {"size_bytes": 6}, False),
            ({"max_size_bytes": 5}, {}, True),
            ({"max_size_bytes": "1 kB"}, {"size_bytes": 1000}, True),
            ({"max_size_bytes": "1 kB"}, {"size_bytes": 1001}, False),
            ({"subset_tags": ["a", "b"]}, {"subset_tags": ()}, True),
            ({"subset_tags": ["a", "b"]}, {"subset_tags": ["a"]}, True),
            ({"subset_tags": ["a", "b"]}, {"subset_tags": ["a", "c"]}, False),
            ({}, {"subset_tags": ["a"]}, False),
            ({"superset_tags": ["a"]}, {"superset_tags": ()}, False),
            ({"superset_tags": ["a"]}, {"superset_tags": ["b", "a"]}, True),
            ({"superset_tags": ["a"]}, {}, True),
            ({}, {"superset_tags": ["b"]}, True),
            ({"type_names": ["numpy.*"]}, {"type_name": "numpy.ndarray"}, True),
            ({"type_names": ["numpy.*", "x.Y"]}, {"type_name": "x.Y"}, True),
            ({"type_names": ["numpy.*"]}, {"type_name": "numpyro.X"}, False),
            ({"type_names": ["numpy.*"]}, {"type_name": ""}, False),
            ({"type_names": ["numpy.*"]}, {}, True),
            ({"host_pattern": HERE[:1] + ".*"}, {}, True),
            ({"host_pattern": HERE[:1]}, {}, len(HERE) == 1),
            ({"host_pattern": ["no-such-host", HERE]}, {}, True),
            ({"host_pattern": "no-such-host"}, {"size_bytes": 1}, False),
            ({"host_pattern": []}, {}, False),
        ],
    )
    def test_what_it_takes(self, policy, given, valid):
        assert Policy(**policy).is_valid(**given) is valid
        copy = Policy(**Policy(**policy).as_dict())
        assert copy == Policy(**policy)
        assert copy.is_valid(**given) is valid

    @pytest.mark.parametrize(
        ("policy", "field", "expected"),
        [
            ({"priority": "high"}, "priority", "a whole number"),
            ({"min_size_bytes": "many"}, "min_size_bytes", "a size"),
            ({"min_size_bytes": 2, "max_size_bytes": 1}, "min_size_bytes", "at most"),
            ({"subset_tags": "abc"}, "subset_tags", "a list of texts"),
            ({"superset_tags": [1]}, "superset_tags", "a list of texts"),
            ({"type_names": "numpy.*"}, "type_names", "a list of texts"),
            ({"host_pattern": "("}, "host_pattern", "a pattern"),
            ({"host_pattern": 5}, "host_pattern", "a list of texts"),
            ({"max-size": 5}, "max_size", "max_size_bytes"),
            (5, "policy", "a Policy, or a mapping"),
        ],
    )
    def test_malformed(self, policy, field, expected):
        with pytest.raises(ConfigError) as caught:
            Policy.read(policy)
        assert field in caught.value.setting
        assert expected in str(caught.value)

    def test_what_users_write(self):
        policy = Policy(priority=3)
        assert Policy.read(policy) is policy
        assert Policy.read(None) == Policy()
        assert Policy.read({"max-size-bytes": "1 kB"}) == Policy(max_size_bytes=1000)

    def test_proxystores_will_do(self):
        theirs = require_module("proxystore.connectors.multi").Policy
        policy = theirs(2, ["a", "b"], 1, 5, ["c"], ["d"])
        assert Policy.read(policy) == Policy(2, ["a", "b"], 1, 5, ["c"], ["d"])
        with MultiConnector({"a": ("local://", theirs(max_size_bytes=5))}) as connector:
            assert connector.put(bytes(5)).connector_name == "a"


class TestRoutes:
    def test_by_size_and_back(self, two):
        connector, small, large = two
        keys = {n: connector.put(bytes(n)) for n in (0, 10, 11)}
        assert [key.connector_name for key in keys.values()] == [
            "small", "small", "large",
        ]  # fmt: skip
        for n, key in keys.items():
            assert connector.get(key) == bytes(n)
            assert connector.exists(key)
        assert small.usage() == Usage(2, 10)
        assert large.usage() == Usage(1, 11)
        assert large.get(keys[11].connector_key) == bytes(11)
        connector.evict(keys[11])
        assert not connector.exists(keys[11])
        assert large.usage() == Usage(0, 0)
        linked = connector.link(keys[10])
        assert linked.connector_name == "small"
        assert connector.renew(linked, 0)
        assert connector.sweep([]) == [linked]
        assert connector.take(keys[10]) == bytes(10)
        assert connector.take(keys[10]) is None

    def test_sizes_are_of_all_frames(self, two):
        connector, *_ = two
        key = connector.put_frames([bytes(6), memoryview(bytes(8)).cast("d")])
        assert key.connector_name == "large"

    def test_by_priority_then_by_order(self):
        with MultiConnector(
            {
                "a": ("local://", None),
                "b": ("local://", {"priority": 2}),
                "c": ("local://", {"priority": 2}),
                "d": ("local://", {"priority": 3, "max_size_bytes": 1}),
            }
        ) as connector:
            assert connector.put(b"xx").connector_name == "b"
            assert connector.put(b"x").connector_name == "d"

    def test_by_tags_and_types(self):
        with MultiConnector(
            {
                "numpy": ("local://", {"type_names": ["numpy.*"], "priority": 2}),
                "cold": ("local://", {"superset_tags": ["cold"], "priority": 1}),
                "any": ("local://", {"subset_tags": ["hot"]}),
            }
        ) as connector:
            for hints, expected in (
                ({}, "any"),
                ({"type_name": "numpy.ndarray"}, "numpy"),
                ({"type_name": "builtins.list"}, "any"),
                ({"superset_tags": ["cold", "old"]}, "cold"),
                ({"subset_tags": ["hot"]}, "any"),
                ({"subset_tags": ["hot"], "superset_tags": ["cold"]}, "any"),
            ):
                assert connector.put(b"", **hints).connector_name == expected
                assert connector.put_frames([b""], **hints).connector_name == expected
                (key,) = connector.put_batch([b""], **hints)
                assert key.connector_name == expected
            with pytest.raises(TypeError, match="a list of texts"):
                connector.put(b"", subset_tags="hot")

    def test_a_store_tells_the_type(self):
        with Store(
            "multi",
            MultiConnector(
                {
                    "lists": ("local://", {"type_names": ["builtins.list"]}),
                    "rest": ("local://", {"priority": -1}),
                }
            ),
        ) as store:
            assert store.put([1]).connector_name == "lists"
            assert store.put((1,)).connector_name == "rest"
            assert store.get(store.put([1])) == [1]

    def test_no_policy_matches(self, two):
        connector, *_ = two
        with pytest.raises(ConnectorError) as caught:
            connector.put(
                bytes(20),
                subset_tags=["b", "a"],
                superset_tags=["c"],
                type_name="x.Y",
            )
        text = str(caught.value)
        assert "20 B" in text
        assert "x.Y" in text
        assert "subset_tags=['a', 'b'], superset_tags=['c']" in text
        assert "small: max_size_bytes=10; large: min_size_bytes=11" in text

    def test_within_another(self):
        inner = MultiConnector({"x": ("local://", None)})
        with MultiConnector({"inner": (inner, None)}) as outer:
            key = outer.put(b"bytes", type_name="a.B")
            assert key.connector_name == "inner"
            assert key.connector_key.connector_name == "x"
            plain = ("inner", ("x", tuple(key.connector_key.connector_key)))
            assert outer.get(plain) == b"bytes"
            with open_connector({"class": connector_path(outer), **CHILDREN}) as other:
                assert other.put(b"").connector_name == "one"

    @pytest.mark.parametrize(
        "key",
        [
            MultiKey("elsewhere", LocalKey("0" * 32)),
            ("elsewhere", ("0" * 32,)),
            ("small",),
            ("small", FileKey("0" * 32, 1)),
            ("small", None),
            (["small"], ("0" * 32,)),
            SharedMemoryKey("small", 5),
            None,
        ],
    )
    def test_keys_of_others(self, two, key):
        connector, *_ = two
        calls = [connector.get, connector.exists, connector.evict, connector.take]
        calls += [lambda key: connector.get_batch([key]), connector.link]
        for call in calls:
            with pytest.raises(WireError):
                call(key)

    def test_an_unknown_name_lists_those_that_there_are(self, two):
        with pytest.raises(WireError, match="'elsewhere', and there are only 'small'"):
            two[0].get(MultiKey("elsewhere", LocalKey("0" * 32)))


class Counting(LocalConnector):
    """Counts round trips."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def put_batch(self, objs):
        objs = list(objs)
        self.calls.append(("put", len(objs)))
        return super().put_batch(objs)

    def get_batch(self, keys):
        keys = list(keys)
        self.calls.append(("get", len(keys)))
        return super().get_batch(keys)

    def evict_batch(self, keys):
        keys = list(keys)
        self.calls.append(("evict", len(keys)))
        super().evict_batch(keys)


def test_a_batch_is_one_batch_per_connector():
    small, large = Counting(), Counting()
    with MultiConnector(
        {"small": (small, Policy(max_size_bytes=10)), "large": (large, {})}
    ) as connector:
        sizes = [1, 100, 2, 200, 3]
        keys = connector.put_batch(bytes(n) for n in sizes)
        assert [key.connector_name for key in keys] == [
            "small", "large", "small", "large", "small",
        ]  # fmt: skip
        found = connector.get_batch(keys[::-1])
        assert [len(view) for view in found] == sizes[::-1]
        connector.evict_batch(keys)
        assert connector.get_batch(keys) == [None] * 5
        assert small.calls == [("put", 3), ("get", 3), ("evict", 3), ("get", 3)]
        assert large.calls == [("put", 2), ("get", 2), ("evict", 2), ("get", 2)]
        assert connector.put_batch([]) == connector.get_batch([]) == []


CHILDREN = {
    "connectors": {
        "one": {"connector": "local://", "policy": {"max-size-bytes": "1 kB"}},
        "two": ["local://", {"min_size_bytes": 1001, "priority": -1}],
    }
}


class TestConfiguration:
    @pytest.mark.parametrize(
        "path", ["daskref.connectors:MultiConnector", "daskref.connectors.multi"]
    )
    def test_from_a_mapping(self, path):
        path = path if ":" in path else f"{path}.MultiConnector"
        with open_connector({"class": path, **CHILDREN}) as connector:
            assert connector.put(bytes(1000)).connector_name == "one"
            assert connector.put(bytes(1001)).connector_name == "two"

    def test_round_trip(self, two, tmp_path):
        connector, *_ = two
        key = connector.put(b"bytes")
        for other in (
            MultiConnector.from_config(connector.config()),
            load_connector(connector_path(connector), connector.config()),
            pickle.loads(pickle.dumps(connector)),
        ):
            with other:
                assert other.config() == connector.config()
                assert other.get(key) == b"bytes"
                assert other.put(bytes(11)).connector_name == "large"
        assert connector.get(key) == b"bytes"

    @pytest.mark.parametrize(
        ("connectors", "text"),
        [
            ({}, "a mapping of names"),
            (["local://"], "a mapping of names"),
            ({"a": "local://"}, "a connector and a policy"),
            ({"a": ("local://",)}, "a connector and a policy"),
            ({"a": {"policy": {}}}, "a connector and a policy"),
            ({"a": {"connector": "local://", "policies": {}}}, "connector and policy"),
            ({1: ("local://", None)}, "a name"),
            ({"a": (5, None)}, "a connector, or its spec"),
            ({"a": (LocalConnector, None)}, "a connector, or its spec"),
            ({"a": ("lokal://", None)}, "did you mean local://"),
            ({"a": ("local://", {"size": 1})}, "min_size_bytes"),
        ],
    )
    def test_malformed(self, connectors, text):
        with pytest.raises(ConfigError, match=text):
            MultiConnector(connectors)
        with pytest.raises(ConfigError, match=text):
            open_connector(
                {"class": "daskref.connectors:MultiConnector", "connectors": connectors}
            )

    def test_what_was_opened_is_closed_if_the_next_is_malformed(self, tmp_path):
        with pytest.raises(ConfigError):
            MultiConnector(
                {"a": (f"file://{tmp_path}", None), "b": ("nowhere://", None)}
            )
        assert not list(tmp_path.iterdir())

    def test_secrets_are_merged_and_in_no_config(self):
        class Secret(LocalConnector):
            def __init__(self, place):
                super().__init__()
                self.place = place

            def secrets(self):
                return {self.place: {"password": "hunter2"}}

        with MultiConnector(
            {"a": (Secret("redis://a"), None), "b": (Secret("redis://b"), None)}
        ) as connector:
            assert connector.secrets() == {
                "redis://a": {"password": "hunter2"},
                "redis://b": {"password": "hunter2"},
            }
            assert "hunter2" not in repr(connector) + repr(connector.config())


class TestClosing:
    def test_closes_each(self, two):
        connector, *children = two
        connector.close()
        connector.close()
        for child in (connector, *children):
            with pytest.raises(ConnectorClosedError):
                child.put(b"")

    def test_closes_the_others_if_one_fails(self):
        class Failing(LocalConnector):
            def close(self):
                super().close()
                raise ConnectorError("<failing>", "no route")

        last = LocalConnector()
        connector = MultiConnector({"a": (Failing(), None), "b": (last, None)})
        with pytest.raises(ConnectorError, match="no route"):
            connector.close()
        with pytest.raises(ConnectorClosedError):
            last.put(b"")
        connector.close()


class TestOutOfReach:
    """A child that this process cannot open."""

    @pytest.fixture
    def apart(self):
        """As another process has it: ``here`` closed, so out of its reach."""
        here, everywhere = LocalConnector(), LocalConnector()
        with MultiConnector(
            {
                "here": (here, Policy(max_size_bytes=10)),
                "everywhere": (everywhere, Policy(priority=-1)),
            }
        ) as connector:
            keys = connector.put(b"small"), connector.put(bytes(20))
            config = connector.config()
            here.close()
            with MultiConnector.from_config(config) as other:
                yield other, keys

    def test_opening_it_does_not_fail(self, apart):
        connector, (lost, found) = apart
        assert connector.get(found) == bytes(20)
        for call in (connector.get, connector.exists, connector.evict):
            with pytest.raises(ConnectorUnavailableError, match="connector 'here'"):
                call(lost)

    def test_it_is_passed_over_by_puts(self, apart):
        connector, _ = apart
        assert connector.put(b"small").connector_name == "everywhere"

    def test_if_there_is_no_other_the_error_says_which(self):
        first = MultiConnector({"only": ("local://", None)})
        config = first.config()
        first.close()
        with MultiConnector.from_config(config) as other:
            with pytest.raises(ConnectorUnavailableError, match="connector 'only'"):
                other.put(b"")
            with pytest.raises(ConnectorUnavailableError, match="connector 'only'"):
                other.put_everywhere(b"")
            assert other.sweep() == []

    def test_a_host_pattern_only_says_who_puts(self, two):
        elsewhere = LocalConnector()
        with MultiConnector(
            {
                "elsewhere": (elsewhere, Policy(host_pattern="no-such-host")),
                "here": ("local://", Policy(priority=-1)),
            }
        ) as connector:
            assert connector.put(b"x").connector_name == "here"
            key = MultiKey("elsewhere", elsewhere.put(b"bytes"))
            assert connector.get(key) == b"bytes"
            everywhere = connector.put_everywhere(b"probe")
            assert [k.connector_name for k in everywhere] == ["elsewhere", "here"]
            assert all(map(connector.exists, everywhere))


class TestDeferred:
    def test_a_key_before_its_object(self, two):
        connector, *_ = two
        key = connector.new_key()
        assert key.connector_name == "small"
        assert connector.get(key) is None
        connector.set(key, b"bytes")
        assert connector.get(key) == b"bytes"
        assert connector.new_key(bytes(20)).connector_name == "large"

    def test_one_that_cannot_is_passed_over(self):
        class Minimal(Connector):
            """Nothing that a connector may leave out."""

            def put_frames(self, frames):
                return ("key",)

            def get(self, key):
                return None

            def exists(self, key):
                return False

            def evict(self, key):
                pass

            def config(self):
                return {}

            def close(self):
                pass

        with MultiConnector(
            {
                "minimal": (Minimal(), Policy(priority=1)),
                "local": ("local://", Policy(max_size_bytes=10)),
            }
        ) as connector:
            assert connector.new_key().connector_name == "local"
            with pytest.raises(NotImplementedError, match="no policy takes"):
                connector.new_key(bytes(11))
            with pytest.raises(WireError):
                connector.set(MultiKey("minimal", ("key",)), b"")
            assert connector.put(b"") == ("minimal", ("key",))
            key = MultiKey("minimal", ("key",))
            assert connector.link(key) is None
            assert connector.renew(key, 1) is False
            assert connector.sweep([], 0) == []
            with pytest.raises(NotImplementedError):
                connector.usage()
            assert connector.overflows == 0


def test_repr_names_the_children(two, tmp_path):
    assert repr(two[0]).startswith("<MultiConnector small=<LocalConnector ")
    with FileConnector(tmp_path) as file:
        connector = MultiConnector({"x": (file, None)})
        other = MultiConnector.from_config(connector.config())
        assert repr(other) == "<MultiConnector x=FileConnector>"
