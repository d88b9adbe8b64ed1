"""Values do not cross the network in the clear where Dask must encrypt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask.config
import pytest
from distributed import Security

from daskref.connectors import MultiConnector, Policy, open_connector
from daskref.connectors.base import Connector
from daskref.encryption import check_transport, is_encryption_required
from daskref.exceptions import ConfigError


@pytest.fixture(params=["alone", "one of several", "by its class"])
def make(request, tmp_path) -> Iterator[Any]:
    opened: list[Connector] = []

    def make(security: str) -> Connector:
        url = f"zmq://?security={security}&root={tmp_path}"
        if request.param == "by its class":
            url = {
                "class": "daskref.connectors:ZmqConnector",
                "security": security,
                "root": str(tmp_path),
            }
        connector = open_connector(url)
        opened.append(connector)
        if request.param == "one of several":
            small = Policy(max_size_bytes=10), Policy(priority=-1)
            connector = MultiConnector(
                {"small": ("local://", small[0]), "large": (connector, small[1])}
            )
            opened.insert(0, connector)
        return connector

    yield make
    for connector in opened:
        connector.close()


def test_clear_is_refused_where_encryption_is_required(make):
    connector = make("clear")
    check_transport(connector, False)
    with pytest.raises(ConfigError) as caught:
        check_transport(connector, True)
    assert caught.value.setting == "daskref.security.transport"
    assert caught.value.value == "clear"
    assert "daskref.security.transport" in str(caught.value)
    assert "distributed.comm.require-encryption" in str(caught.value)


def test_curve_is_fine(make):
    check_transport(make("curve"), True)


@pytest.mark.parametrize("spec", ["local://", "shm://"])
def test_what_crosses_no_network_is_fine(spec):
    with open_connector(spec) as connector:
        check_transport(connector, True)


def test_encryption_is_required_by_the_configuration():
    assert not is_encryption_required()
    assert not is_encryption_required(Security())
    with dask.config.set({"distributed.comm.require-encryption": True}):
        assert is_encryption_required()


def test_encryption_is_required_by_certificates_unless_they_say_otherwise():
    assert is_encryption_required(Security(tls_ca_file="ca.pem"))
    assert not is_encryption_required(
        Security(tls_ca_file="ca.pem", require_encryption=False)
    )
