"""Where servers listen, and options."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest

from daskref.connectors.registry import open_connector
from daskref.connectors.zmq import ZmqConnector
from daskref.connectors.zmq._server import Served
from daskref.exceptions import ConfigError, ConnectorUnavailableError
from tests.support.requirements import require
from tests.support.zmq_hosts import pattern, peers, server_of

MIB = 2**20


def test_hosts_reach_each_other_over_ipv6(hosts, security):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        require(False, "IPv6 on loopback")
    made = hosts(security=security)
    a = made.open("a", serve=True, interface="[::1]")
    assert a.endpoints[0].startswith("tcp://[::1]:")
    key = a.put(pattern(3 * MIB))
    assert made.open("b", peers=peers(a)).get(key) == pattern(3 * MIB)


def test_the_port_is_the_first_free_one_of_the_range(hosts):
    made = hosts()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        a = made.open("a", serve=True, port=f"{port}:{port + 20}")
        assert port < int(a.endpoints[0].rpartition(":")[2]) <= port + 20
        with pytest.raises(ConnectorUnavailableError, match="cannot be served on"):
            made.open("b", serve=True, port=port)


def test_an_interface_can_be_named(hosts):
    a = hosts().open("a", serve=True, interface="lo")
    assert a.endpoints[0].startswith("tcp://127.0.0.1:")


@pytest.mark.parametrize(
    ("advertise", "told"),
    [
        ("10.1.2.3", "tcp://10.1.2.3:{port}"),
        ("10.1.2.3:77", "tcp://10.1.2.3:77"),
        ("fd00::5", "tcp://[fd00::5]:{port}"),
        ("[fd00::5]:77", "tcp://[fd00::5]:77"),
        ("node-7.example", "tcp://node-7.example:{port}"),
    ],
)
def test_what_is_advertised_is_what_others_are_told(hosts, advertise, told):
    a = hosts().open("a", serve=True, advertise=advertise)
    assert a.endpoints == [told.format(port=server_of(a).port)]


@pytest.mark.parametrize("advertise", ["a:x", "a:0", "", "fd00::1::5", "[a]:5"])
def test_what_cannot_be_advertised_is_refused_at_once(hosts, advertise):
    with pytest.raises(ConfigError, match="zmq: advertise"):
        ZmqConnector(advertise=advertise)
    a = hosts().open("a")
    with pytest.raises(ConfigError, match="zmq: advertise"):
        a.serve(advertise=advertise)
    assert not a.endpoints


def test_a_server_on_all_addresses_says_one_that_others_can_use(hosts):
    a = hosts().open("a", serve=True, interface="0.0.0.0")
    assert "0.0.0.0" not in a.endpoints[0]


def test_options_can_be_in_a_url(tmp_path):
    url = f"zmq://?security=clear&port=5000:5100&timeout=2.5&lanes=3&root={tmp_path}"
    with open_connector(url) as connector:
        config = connector.config()
        assert config["security"] == "clear"
        limits = ZmqConnector.limits
        assert connector._session._limits == replace(limits, timeout=2.5, lanes=3)
        assert connector.endpoints == []
    with pytest.raises(ConfigError, match="nothing after it"):
        open_connector("zmq://host:5000")


@pytest.mark.parametrize(
    "options",
    [
        {"security": "none"},
        {"security": "curve"},
        {"session": "../x"},
        {"port": "http"},
        {"port": "5000:4000"},
        {"port": 70000},
        {"interface": "nothing0", "serve": True},
        {"timeout": "soon"},
        {"timeout": -1},
        {"lanes": 0},
        {"lanes": "2.5"},
        {"peers": {"0" * 32: ["here"]}},
    ],
)
def test_malformed_options_are_refused(options, tmp_path):
    with pytest.raises(ConfigError, match="zmq: "):
        ZmqConnector(root=tmp_path, spill_directory=tmp_path, **options)
    assert not os.listdir(tmp_path)


def test_a_connector_that_does_not_serve_has_served_nothing(tmp_path):
    with ZmqConnector(root=tmp_path) as connector:
        assert connector.served == Served()
        assert connector.endpoints == []
