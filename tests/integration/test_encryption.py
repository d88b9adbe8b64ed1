"""Values do not cross the network in the clear where Dask must encrypt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import dask.config
import distributed
import numpy as np
import pytest
from distributed import Security

import daskref
from daskref.connectors import MultiConnector, Policy, open_connector
from daskref.connectors.base import Connector
from daskref.exceptions import ConfigError
from daskref.scheduler._encryption import (
    check_transport,
    choose_transport,
    is_encryption_required,
)
from tests.support.common import large, session_of


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


def test_tls_is_fine(make):
    check_transport(make("tls"), True)


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


@pytest.mark.slow
@pytest.mark.parametrize("said", ["in the spec", "in the settings"])
def test_a_cluster_that_has_to_encrypt_refuses_a_session_in_the_clear(said):
    required = {"distributed.comm.require-encryption": True}
    spec = "zmq://"
    if said == "in the spec":
        spec += "?security=clear"
    else:
        required["daskref.security.transport"] = "clear"
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(required))
        cluster = stack.enter_context(
            distributed.LocalCluster(
                1, processes=False, protocol="inproc", dashboard_address=":0"
            )
        )
        with pytest.raises(ConfigError, match=r"daskref\.security\.transport"):
            daskref.Client(cluster, connector=spec)
        # The refused session left nothing behind that a good one stumbles over.
        with dask.config.set({"daskref.security.transport": "auto"}):
            client = stack.enter_context(daskref.Client(cluster, connector="zmq://"))
            assert client.submit(np.sum, large()).result() == large().sum()


class Listener:
    def __init__(self, address):
        self.contact_address = address


def scheduler(*addresses: str, security: Security | None = None) -> Any:
    listeners = [Listener(address) for address in addresses]
    return SimpleNamespace(listeners=listeners, security=security or Security())


def test_hosts_transfer_as_dask_does():
    assert choose_transport("auto", scheduler("tcp://10.0.0.1:8786")) == "clear"
    assert choose_transport("auto", scheduler("tls://10.0.0.1:8786")) == "tls"
    both = scheduler("tcp://10.0.0.1:8786", "tls://10.0.0.1:8787")
    assert choose_transport("auto", both) == "tls"
    assert choose_transport("auto", scheduler()) == "tls"  # it does not listen yet
    certified = scheduler("tcp://10.0.0.1:8786", security=Security(tls_ca_file="ca"))
    assert choose_transport("auto", certified) == "tls"
    with dask.config.set({"distributed.comm.require-encryption": True}):
        assert choose_transport("auto", scheduler("tcp://10.0.0.1:8786")) == "tls"


def test_what_is_said_of_the_transport_holds():
    for said in ("tls", "clear"):
        for address in ("tcp://10.0.0.1:8786", "tls://10.0.0.1:8786"):
            assert choose_transport(said, scheduler(address)) == said


def transport_of(client: Any) -> tuple[str, str]:
    """Return what is set, and what the session does."""
    session = session_of(client)
    return (
        session.info.settings.security_transport,
        session.store.connector.config()["security"],
    )


@pytest.mark.slow
def test_a_clear_cluster_transfers_in_the_clear(caplog):
    with (
        distributed.LocalCluster(1, processes=False, dashboard_address=":0") as cluster,
        daskref.Client(cluster, connector="zmq://") as client,
    ):
        assert transport_of(client) == ("auto", "clear")
        assert client.submit(np.sum, large()).result() == large().sum()
        with (
            dask.config.set({"daskref.security.transport": "auto"}),
            daskref.Client(cluster),
        ):
            pass
    assert "settings hold" not in caplog.text  # `auto` is what the session has


@pytest.mark.slow
def test_an_encrypted_cluster_transfers_encrypted():
    certificates = Security.temporary()
    with (
        distributed.LocalCluster(
            1,
            processes=False,
            dashboard_address=":0",
            protocol="tls",
            security=certificates,
        ) as cluster,
        daskref.Client(cluster, connector="zmq://", security=certificates) as client,
    ):
        assert transport_of(client) == ("auto", "tls")
        assert client.submit(np.sum, large()).result() == large().sum()
