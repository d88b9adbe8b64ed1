"""What Redis servers refuse, and servers that go away."""

from __future__ import annotations

import http.server
import inspect
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daskref.connectors.redis import RedisConnector
from daskref.connectors.redis._objects import write
from daskref.exceptions import ConnectorError, ConnectorUnavailableError
from tests.support.common import wait_until
from tests.support.redis_servers import (
    SECRET,
    RedisServer,
    objects,
    pattern,
    with_user,
)


def _category(exc: BaseException) -> str:
    from daskref.connectors.redis._errors import find

    return find(exc).category.name


class TestFailures:
    def test_every_exception_of_the_driver_is_translated(self) -> None:
        from redis import exceptions

        from daskref.connectors.redis._errors import translated

        theirs = {
            found
            for _, found in inspect.getmembers(exceptions, inspect.isclass)
            if issubclass(found, Exception)
        }
        for cls in theirs:
            error = translated(cls.__new__(cls), "<it>")
            assert isinstance(error, ConnectorError)
            assert error.message.count("(") >= 1
            assert "{}" not in error.message
        # what daskref never causes, or whose text tells more
        internal = {
            *["ChildDeadlockedError", "DataError", "ExecAbortError"],
            *["IncorrectPolicyType", "InvalidPipelineStack", "LockError"],
            *["LockNotOwnedError", "ModuleError", "NoScriptError", "PubSubError"],
            *["NoSuchFieldsetError", "RedisError", "ResponseError", "WatchError"],
        }
        other = {c.__name__ for c in theirs if _category(c.__new__(c)) == "OTHER"}
        assert other <= internal

    @pytest.mark.parametrize(
        ("said", "category"),
        [
            ("NOAUTH Authentication required.", "CREDENTIALS"),
            ("WRONGPASS invalid username-password pair", "CREDENTIALS"),
            ("NOPERM this user has no permissions to run 'auth'", "FORBIDDEN"),
            ("ERR Error running script: @user_script:3: -OOM command not", "FULL"),
            ("OOM command not allowed when used memory > 'maxmemory'.", "FULL"),
            ("LOADING Redis is loading the dataset in memory", "UNREACHABLE"),
            ("READONLY You can't write against a read only replica.", "UNSUITABLE"),
            ("MASTERDOWN Link with MASTER is down", "UNSUITABLE"),
            ("MOVED 3999 127.0.0.1:6381", "UNSUITABLE"),
            ("CLUSTERDOWN Hash slot not served", "UNSUITABLE"),
            ("ERR unknown command 'UNLINK', with args", "UNSUITABLE"),
            ("ERR DB index is out of range", "MISSING"),
            ("MISCONF Redis is configured to save RDB snapshots", "OTHER"),
            ("ERR value is not an integer or out of range", "OTHER"),
        ],
    )
    def test_what_servers_reply(self, said: str, category: str) -> None:
        from redis.exceptions import ResponseError

        assert _category(ResponseError(said)) == category

    @pytest.mark.parametrize(
        ("name", "category"),
        [
            ("AuthenticationError", "CREDENTIALS"),
            ("AuthenticationWrongNumberOfArgsError", "CREDENTIALS"),
            ("BusyLoadingError", "UNREACHABLE"),
            ("ClusterDownError", "UNSUITABLE"),
            ("ConnectionError", "UNREACHABLE"),
            ("InvalidResponse", "UNSUITABLE"),
            ("MasterDownError", "UNSUITABLE"),
            ("MovedError", "UNSUITABLE"),
            ("NoPermissionError", "FORBIDDEN"),
            ("OutOfMemoryError", "FULL"),
            ("TimeoutError", "TIMED_OUT"),
        ],
    )
    def test_what_the_driver_raises(self, name: str, category: str) -> None:
        from redis import exceptions

        cls = getattr(exceptions, name)
        assert _category(cls.__new__(cls)) == category

    @pytest.mark.parametrize(
        ("exc", "category"),
        [
            (ConnectionResetError("reset"), "UNREACHABLE"),
            (TimeoutError("late"), "TIMED_OUT"),
            (ssl.SSLError("no"), "UNSUITABLE"),
        ],
    )
    def test_what_sockets_raise(self, exc: OSError, category: str) -> None:
        assert _category(exc) == category

    def test_the_driver_has_the_private_name(self, redis_server: RedisServer) -> None:
        import redis

        connection = redis.Connection("127.0.0.1", redis_server.port)
        assert connection._sock is None
        connection.connect()
        assert isinstance(connection._sock, socket.socket)
        connection.disconnect()

    @pytest.mark.parametrize(
        ("user", "expected"),
        [
            ("", "Authentication required"),
            (":wrong", "no credentials that work"),
            ("eve:wrong", "no credentials that work"),
            (f"bob:{SECRET}2", "lacks a permission"),
            (f"carol:{SECRET}2", "ACL SETUSER"),
        ],
    )
    def test_users_that_may_not(
        self, guarded: RedisServer, user: str, expected: str
    ) -> None:
        url = with_user(guarded, user) if user else guarded.url
        with pytest.raises(ConnectorUnavailableError, match=expected):
            RedisConnector(url)

    def test_a_database_that_is_not_there(self, redis_server: RedisServer) -> None:
        with pytest.raises(ConnectorUnavailableError, match="Name a database"):
            RedisConnector(redis_server.url.replace("/0", "/99"))

    def test_nobody_there(self) -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            url = f"redis://127.0.0.1:{held.getsockname()[1]}"
            with pytest.raises(ConnectorUnavailableError, match="Start `redis-server`"):
                RedisConnector(url, retries=1)

    @pytest.mark.slow
    def test_another_kind_of_server(self) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def parse_request(self) -> bool:
                self.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return False

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                with pytest.raises(ConnectorUnavailableError) as caught:
                    RedisConnector("127.0.0.1", server.server_port, retries=0)
            finally:
                server.shutdown()
                thread.join()
        # what came first: its answer, or the end of the connection
        assert any(
            words in str(caught.value)
            for words in ("does not speak Redis's protocol", "correct the connector's")
        )

    def test_a_full_server(self, own_server: Callable[..., RedisServer]) -> None:
        server = own_server()
        with RedisConnector(server.url, chunk="1 MiB") as connector:
            key = connector.put(b"kept")
            server.ask("CONFIG", "SET", "maxmemory", "6mb")
            before = server.names()
            for value in (bytes(20 << 20), bytes(10 << 20)):
                with pytest.raises(ConnectorError, match="Raise its `maxmemory`"):
                    connector.put(value)
                with pytest.raises(ConnectorError, match="Raise its `maxmemory`"):
                    connector.put_batch([b"small", value])
            assert server.names() == before
            assert connector.usage() == (1, 4)
            server.ask("CONFIG", "SET", "maxmemory", "1kb")
            with pytest.raises(ConnectorError, match="full"):
                connector.put(b"x")
            # what is needed to go on, and to make room, still works
            assert connector._session._beat()
            assert connector.get(key) == b"kept"
            connector.evict(key)
            assert connector.sweep([], 0) == []
            assert connector.usage() == (0, 0)
            server.ask("CONFIG", "SET", "maxmemory", "0")
            assert connector.get(connector.put(b"again")) == b"again"

    def test_a_replica(self, own_server: Callable[..., RedisServer]) -> None:
        server = own_server()
        with RedisConnector(server.url) as connector:
            key = connector.put(b"x")
            server.ask("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(ConnectorUnavailableError, match="Name the primary"):
                connector.put(b"y")
            server.ask("REPLICAOF", "NO", "ONE")
            assert connector.get(key) == b"x"

    def test_a_cluster(self, own_server: Callable[..., RedisServer]) -> None:
        server = own_server(cluster_enabled="yes")
        with pytest.raises(ConnectorUnavailableError, match="Redis Cluster"):
            RedisConnector(server.url)

    @pytest.mark.slow
    def test_a_server_that_does_not_answer(
        self, own_server: Callable[..., RedisServer]
    ) -> None:
        server = own_server()
        options = {"timeout": 0.4, "connect_timeout": 0.4}
        with RedisConnector(server.url, **options) as connector:
            key = connector.put(b"kept")
            with server.stopped():
                calls: list[Callable[[], Any]] = [
                    lambda: connector.get(key),
                    lambda: connector.put(bytes(64 << 20)),
                    lambda: connector.exists(key),
                    lambda: connector.evict(key),
                    lambda: RedisConnector(server.url, **options),
                ]
                for call in calls:
                    with pytest.raises(ConnectorUnavailableError, match="in time"):
                        call()
            assert connector.get(key) == b"kept"
            wait_until(lambda: connector.put(b"again"))

    @pytest.mark.slow
    def test_its_death_and_restart(
        self, own_server: Callable[..., RedisServer]
    ) -> None:
        server = own_server()
        with RedisConnector(server.url, retries=1) as connector:
            key = connector.put(b"lost")
            server.kill()
            with pytest.raises(ConnectorUnavailableError, match="Start `redis-server`"):
                connector.get(key)
            begin = time.monotonic()
            with pytest.raises(ConnectorUnavailableError, match="Start `redis-server`"):
                connector.put(b"x")
            server.start()
            assert connector.get(key) is None
            # a session goes on where it was; what it had is gone
            again = connector.put(b"again")
            assert connector.get(again) == b"again"
            assert time.monotonic() - begin < 20
            wait_until(lambda: connector._session._beat())
            with RedisConnector.from_config(connector.config()) as other:
                assert other.get(again) == b"again"

    @pytest.mark.slow
    def test_it_comes_back_while_a_reader_waits(
        self, own_server: Callable[..., RedisServer]
    ) -> None:
        server = own_server()
        with RedisConnector(server.url, retries=20) as connector:
            key = connector.put(b"lost")
            server.kill()
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(connector.get, key)
                server.start()
                assert waiting.result(30) is None

    @pytest.mark.slow
    def test_writing_does_not_wait_for_a_server_that_was_just_away(
        self, own_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = own_server()
        with RedisConnector(server.url, retries=1) as connector:
            server.kill()
            with pytest.raises(ConnectorUnavailableError):
                connector.put(b"x")
            connector._server._pause_ends = time.monotonic() + 1000
            made: list[int] = []
            pool = connector._server._pool
            take = pool.get_connection
            monkeypatch.setattr(
                pool, "get_connection", lambda: made.append(1) or take()
            )
            for _ in range(100):
                with pytest.raises(ConnectorUnavailableError, match="Start `redis"):
                    connector.put(b"x")
            assert not made
            # what was read successfully shows that it is back
            server.start()
            assert connector.get(connector.new_key()) is None
            assert connector.get(connector.put(b"x")) == b"x"

    @pytest.mark.slow
    def test_it_dies_in_the_middle_of_a_put(
        self, own_server: Callable[..., RedisServer]
    ) -> None:
        server = own_server()
        with RedisConnector(server.url, retries=0) as connector:
            with ThreadPoolExecutor(1) as pool:
                with server.stopped():
                    putting = pool.submit(connector.put, bytes(64 << 20))
                    wait_until(putting.running)
                    server.kill()
                with pytest.raises(ConnectorUnavailableError):
                    putting.result(30)
            server.start()
            assert connector.get(connector.new_key()) is None  # it is back
            assert connector.get(connector.put(b"again")) == b"again"
            assert len(objects(server)) == 1

    def test_a_put_that_failed_is_tidied_up_later(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with RedisConnector(redis_server.url, chunk=100, lease=0.2) as connector:
            name = f"{connector._session.writer}-{'1' * 24}"
            value = memoryview(pattern(1000))
            for command in write(connector._session, name, [value], 100)[:-2]:
                connector._server.ask(command)

            def away(*args: Any, **kwargs: Any) -> Any:
                raise ConnectorUnavailableError("<it>", "away")

            with monkeypatch.context() as patched:
                patched.setattr(connector._session, "drop", away)
                connector._session.abandon([name])
                assert len(objects(redis_server)) == 10
            wait_until(lambda: not objects(redis_server), "the next beat deletes it")

    def test_closing_without_a_server(
        self, own_server: Callable[..., RedisServer]
    ) -> None:
        server = own_server()
        connector = RedisConnector(server.url, retries=0)
        server.kill()
        connector.close()
        connector.close()
