"""Where Redis servers are, and who may use them: addresses, secrets, TLS."""

from __future__ import annotations

import logging
import pickle
import sys
from typing import Any

import pytest

import daskref.connectors
from daskref.connectors import credentials
from daskref.connectors.redis import RedisConnector
from daskref.connectors.registry import load_scheme, open_connector
from daskref.exceptions import ConfigError, ConnectorError, ConnectorUnavailableError
from tests.support.redis_servers import (
    SECRET,
    Certificates,
    RedisServer,
    objects,
    pattern,
    with_user,
)


class TestPlaces:
    def test_user_and_password_from_the_url(self, guarded: RedisServer) -> None:
        with RedisConnector(with_user(guarded, f"alice:{SECRET}2")) as connector:
            key = connector.put(b"x")
            assert connector.get(key) == b"x"
            assert connector.secrets() == {
                guarded.url: {"username": "alice", "password": f"{SECRET}2"}
            }
        with open_connector(guarded.url, password=SECRET) as connector:
            assert connector.get(connector.put(b"x")) == b"x"
        with open_connector(f"{guarded.url}?password={SECRET}&timeout=9") as other:
            assert other.config()["timeout"] == 9.0

    def test_from_the_environment(
        self, guarded: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DASKREF_REDIS_URL", guarded.url.removesuffix("/0"))
        monkeypatch.setenv("DASKREF_REDIS_PASSWORD", SECRET)
        monkeypatch.setenv("DASKREF_REDIS_DB", "3")
        with open_connector("redis://") as connector:
            connector.put(b"x")
            assert connector.config()["url"].endswith("/3")
            assert "db3" in guarded_databases(guarded)
        monkeypatch.setenv("DASKREF_REDIS_USERNAME", "alice")
        monkeypatch.setenv("DASKREF_REDIS_PASSWORD", f"{SECRET}2")
        with open_connector("redis://") as connector:
            assert connector.secrets()[connector.config()["url"]]["username"] == "alice"

    def test_what_is_remembered_opens_it_again(self, guarded: RedisServer) -> None:
        with RedisConnector(with_user(guarded, f":{SECRET}")) as connector:
            key = connector.put(b"x")
            with pickle.loads(pickle.dumps(connector)) as other:
                assert other.get(key) == b"x"
            # as in a process of the same session
            credentials._known.clear()
            with pytest.raises(ConnectorUnavailableError, match="DASKREF_REDIS_PASS"):
                pickle.loads(pickle.dumps(connector))
            for place, secrets in connector.secrets().items():
                credentials.remember(place, secrets)
            pickle.loads(pickle.dumps(connector)).close()
            # a wrong one does not replace it
            with pytest.raises(ConnectorUnavailableError):
                RedisConnector(with_user(guarded, ":wrong"))
            pickle.loads(pickle.dumps(connector)).close()

    def test_secrets_are_seen_nowhere(
        self, guarded: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        url = with_user(guarded, f"alice:{SECRET}2")
        seen: list[object] = []
        with open_connector(url) as connector:
            key = connector.put(b"x")
            seen += [repr(connector), connector.config(), key, pickle.dumps(connector)]
            seen += [repr(connector._place), repr(connector._session)]  # type: ignore[attr-defined]
        for bad in (
            f"{url}?nonsense=1",
            f"{url}?timeout=never",
            f"{url}nonsense",
            url.replace("redis:", "rediz:"),
            url.replace(f":{guarded.port}", ":port"),
            url.replace(f":{guarded.port}", ":1?retries=0&"),
            with_user(guarded, f"bob:{SECRET}2"),
            with_user(guarded, f"alice:{SECRET}3"),
        ):
            with pytest.raises((ConfigError, ConnectorError)) as caught:
                open_connector(bad)
            error: BaseException | None = caught.value
            while error is not None:
                seen += [str(error), repr(error), error.args]
                error = error.__cause__
        seen.append(caplog.text)
        for each in seen:
            assert SECRET not in (repr(each) if type(each) is not str else each)

    def test_proxystores_form(self, redis_server: RedisServer) -> None:
        forms: list[RedisConnector] = [
            RedisConnector("127.0.0.1", redis_server.port),
            RedisConnector(hostname="127.0.0.1", port=redis_server.port, clear=True),
            RedisConnector.from_config(
                {"hostname": "127.0.0.1", "port": redis_server.port, "clear": False}
            ),
        ]
        assert [form.config()["clear"] for form in forms] == [False, True, False]
        for form in forms:
            key = form.put(b"x")
            assert form.get(key) == b"x"
            form.close(clear=True)
        assert not objects(redis_server)

    @pytest.mark.parametrize(
        ("url", "options", "expected"),
        [
            ("http://host", {}, "rediss:// for TLS"),
            ("redis://host/first", {}, "a database is a number"),
            ("redis://host:port", {}, "rediss:// for TLS"),
            ("redis://host?timeout=1", {}, "options by name"),
            ("redis://host", {"port": 5}, "none beside a URL"),
            ("redis://", {"timeout": 0}, "a positive duration such as"),
            ("redis://", {"timeout": "soon"}, "a positive duration such as"),
            ("redis://", {"lease": -1}, "a positive duration such as"),
            ("redis://", {"retries": "many"}, "a whole number, from 0 to 100"),
            ("redis://", {"chunk": "1 GiB"}, "from 1 B to 512 MB"),
            ("redis://", {"chunk": 0}, "from 1 B to 512 MB"),
            ("redis://", {"clear": "perhaps"}, "true or false"),
            ("redis://", {"prefix": "a b"}, "letters, digits"),
            ("redis://", {"prefix": ""}, "letters, digits"),
            ("redis://", {"session": "x"}, "32 hexadecimal digits"),
            ("rediss://", {"ssl_cert_reqs": "maybe"}, "required, optional or none"),
            ("rediss://", {"ssl_ca_certs": "/no/such"}, "the path of a file"),
        ],
    )
    def test_malformed_arguments(
        self, url: str, options: dict[str, Any], expected: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            RedisConnector(url, **options)
        assert expected in str(caught.value)
        assert str(caught.value).startswith("daskref.connector")

    def test_a_missing_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = [n for n in sys.modules if n.startswith("daskref.connectors.redis")]
        for name in ours:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "redis", None)
        for scheme in ("redis", "rediss"):
            with pytest.raises(ConfigError, match=r"pip install 'daskref\[redis\]'"):
                load_scheme(scheme)
        with pytest.raises(ImportError, match=r"pip install 'daskref\[redis\]'"):
            daskref.connectors.RedisConnector  # noqa: B018

    def test_a_prefix_of_ones_own(self, redis_server: RedisServer) -> None:
        with RedisConnector(redis_server.url, prefix="app:cache") as connector:
            key = connector.put(b"x")
            assert connector.get(key) == b"x"
            assert all(key.startswith("app:cache:") for key in redis_server.names())
            with pickle.loads(pickle.dumps(connector)) as other:
                assert other.get(key) == b"x"


def guarded_databases(server: RedisServer) -> dict[str, Any]:
    import redis

    with redis.Redis(
        unix_socket_path=f"{server.directory}/socket", password=SECRET
    ) as client:
        found: dict[str, Any] = client.info("keyspace")
        return found


class TestTls:
    @pytest.mark.slow
    def test_with_the_authority(self, redis_tls_server: RedisServer) -> None:
        with RedisConnector(**redis_tls_server.arguments) as connector:
            value = pattern(5_000_000)
            assert connector.get(connector.put(value)) == value
            with pickle.loads(pickle.dumps(connector)) as other:
                assert other.usage().objects == 1

    def test_from_the_environment(
        self,
        redis_tls_server: RedisServer,
        certificates: Certificates,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("DASKREF_REDIS_CA_CERTS", certificates.ca)
        with open_connector(redis_tls_server.url) as connector:
            assert connector.get(connector.put(b"x")) == b"x"
            assert "ssl_ca_certs" not in connector.config()

    def test_an_unknown_authority(self, redis_tls_server: RedisServer) -> None:
        with pytest.raises(ConnectorUnavailableError, match="ssl_ca_certs"):
            RedisConnector(redis_tls_server.url)
        RedisConnector(redis_tls_server.url, ssl_cert_reqs="none").close()

    @pytest.mark.slow
    def test_one_side_without_it(
        self, redis_tls_server: RedisServer, redis_server: RedisServer
    ) -> None:
        with pytest.raises(ConnectorUnavailableError, match="rediss:// in place of"):
            RedisConnector(redis_tls_server.url.replace("rediss", "redis"), retries=1)
        url = redis_server.url.replace("redis", "rediss", 1)
        with pytest.raises(ConnectorUnavailableError, match="has no TLS"):
            RedisConnector(url, connect_timeout=0.5)
