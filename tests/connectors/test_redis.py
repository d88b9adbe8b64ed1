"""Redis servers as stores: objects, sessions, failures, secrets."""

from __future__ import annotations

import http.server
import inspect
import logging
import os
import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import daskref.connectors
from daskref.connectors import credentials
from daskref.connectors.redis import RedisConnector
from daskref.connectors.redisobjects import RedisKey, checked, write
from daskref.connectors.rediswire import writable
from daskref.connectors.registry import load_scheme, open_connector
from daskref.exceptions import (
    ConfigError,
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)
from daskref.testing import RULES, check_connector
from tests.connectors.processes import Child
from tests.connectors.redisservers import Certificates, RedisServer
from tests.utils import wait_until

#: A password that may be seen nowhere.
SECRET = "hunter2-is-secret"
KEY = "daskref:" + "0" * 32 + ":" + "0" * 8 + "-" + "0" * 24


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DASKREF_REDIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(credentials, "_known", {})


@pytest.fixture(autouse=True)
def nothing_stays_in_the_server(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "redis_server" in request.fixturenames:
        server = request.getfixturevalue("redis_server")
        try:
            wait_until(lambda: not server.names(), "no keys are left", 5)
        finally:
            server.ask("FLUSHALL")


@pytest.fixture
def connector(redis_server: RedisServer) -> Iterator[RedisConnector]:
    with RedisConnector(redis_server.url) as connector:
        yield connector


@pytest.fixture
def own_server() -> Iterator[Callable[..., RedisServer]]:
    """``**options -> RedisServer`` for a test that does it harm."""
    started: list[RedisServer] = []

    def start(**options: Any) -> RedisServer:
        started.append(RedisServer(**options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A server that asks for a password, and knows a user."""
    users = [
        f"default on >{SECRET} ~* &* +@all",
        f"alice on >{SECRET}2 ~daskref:* +@read +@write +@scripting +@connection +time",
        f"bob on >{SECRET}2 ~other:* +@all",
        f"carol on >{SECRET}2 ~daskref:* +@all -@scripting",
    ]
    server = RedisServer(user=users)
    yield server
    server.close()


def with_user(server: RedisServer, user: str) -> str:
    return server.url.replace("//", f"//{user}@")


def pattern(nbytes: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(nbytes))


def objects(server: RedisServer) -> set[str]:
    """Return the keys of objects and of their chunks."""
    return {key for key in server.names() if "-" in key.rpartition(":")[2]}


class TestObjects:
    @pytest.mark.slow
    @pytest.mark.parametrize("rule", sorted(RULES.keys() - {"processes"}))
    def test_the_contract_holds_with_small_chunks(
        self, redis_server: RedisServer, rule: str
    ) -> None:
        check_connector(
            lambda: RedisConnector(redis_server.url, chunk=3_000_001),
            relax=RULES.keys() - {rule},
        )

    def test_over_a_unix_socket(self, redis_server: RedisServer) -> None:
        with RedisConnector(redis_server.unix) as connector:
            key = connector.put(b"bytes")
            assert connector.get(key) == b"bytes"
            assert repr(connector) == f"<RedisConnector {redis_server.unix}>"

    @pytest.mark.parametrize("nbytes", [0, 1, 99, 100, 101, 200, 1001])
    def test_chunks(self, redis_server: RedisServer, nbytes: int) -> None:
        value = pattern(nbytes)
        with RedisConnector(redis_server.url, chunk=100) as connector:
            before = objects(redis_server)
            frames = [value[:33], value[33:150], b"", value[150:]]
            key = connector.put_frames(frames)
            strings = objects(redis_server) - before
            # one string, or a hash and strings of at most a chunk
            assert len(strings) == (1 if nbytes <= 100 else 1 + -(-nbytes // 100))
            for one in connector.get(key), connector.get_batch([key, key])[1]:
                assert one == value
                assert one is not None
                assert not one.readonly
            connector.evict(key)
            assert objects(redis_server) == before

    def test_what_is_large_is_in_huge_pages_if_there_are_any(self) -> None:
        for nbytes in (0, 100, 3 << 20):
            view = writable(nbytes)
            assert (view.nbytes, view.format, view.readonly) == (nbytes, "B", False)
            assert not any(view[:4096])

    @pytest.mark.stress
    @pytest.mark.parametrize("chunk", ["4 MiB", "400 MB"])
    def test_more_than_a_string_may_have(
        self, redis_server: RedisServer, chunk: str
    ) -> None:
        block = pattern(1 << 20)
        with RedisConnector(redis_server.url, chunk=chunk) as connector:
            key = connector.put_frames([block] * 700)
            view = connector.get(key)
            assert view is not None
            assert view.nbytes == 700 << 20
            starts = range(0, view.nbytes, 1 << 20)
            assert all(view[start : start + (1 << 20)] == block for start in starts)

    def test_nothing_is_seen_before_the_last_step(
        self, redis_server: RedisServer
    ) -> None:
        value = memoryview(pattern(1000))
        with RedisConnector(redis_server.url, chunk=100) as connector:
            key = connector.new_key(value)
            name = key.redis_key.rpartition(":")[2]
            commands = write(connector._session, name, [value], 100)
            for command in commands[:-2]:
                connector._wires.ask(command)
                assert connector.get(key) is None
                assert not connector.exists(key)
            connector._wires.ask(commands[-2])
            assert connector.get(key) == value

    def test_an_object_that_lacks_a_chunk_is_missing(
        self, redis_server: RedisServer
    ) -> None:
        with RedisConnector(redis_server.url, chunk=100) as connector:
            key, other = connector.put(pattern(1000)), connector.put(pattern(500))
            redis_server.ask("DEL", f"{key[0]}.3")
            assert connector.get(key) is None
            assert connector.get_batch([key, other]) == [None, pattern(500)]
            connector.evict(key)
            connector.evict(other)
            assert connector.usage().objects == 0

    def test_another_size_than_the_keys(self, connector: RedisConnector) -> None:
        key = connector.put(b"four")
        with pytest.raises(WireError, match="its key says 5"):
            connector.get(RedisKey(key[0], 5))

    @pytest.mark.parametrize("chunk", [100, 10_000])
    def test_links_share_the_bytes(self, redis_server: RedisServer, chunk: int) -> None:
        value = pattern(1000)
        with RedisConnector(redis_server.url, chunk=chunk) as connector:
            key = connector.put(value)
            keys = [key, connector.link(key)]
            keys.append(connector.link(keys[1]))
            assert len({key[0] for key in keys}) == 3
            assert connector.get_batch(keys) == [value] * 3
            assert connector.usage() == (1, 1000)
            data = {k for k in objects(redis_server) if "." in k}
            assert len(data) == (10 if chunk == 100 else 1)
            for n in (1, 0):
                connector.evict(keys[n])
                connector.evict(keys[n])
                assert connector.get(keys[n]) is None
                assert connector.get(keys[2]) == value
                assert connector.usage() == (1, 1000)
            connector.evict(keys[2])
            assert not objects(redis_server)
            assert not redis_server.ask("EXISTS", f"{key[0].rpartition(':')[0]}:shares")

    @pytest.mark.slow
    def test_an_object_that_is_linked_while_it_is_read(
        self, redis_server: RedisServer
    ) -> None:
        value = pattern(5 << 20)
        with RedisConnector(redis_server.url, chunk=64 << 20) as connector:
            key = connector.put(value)
            stop = threading.Event()

            def link() -> None:
                for _ in range(50):
                    again = connector.put(value)
                    reading.append(again)
                    other = connector.link(again)
                    assert other is not None
                    connector.evict(other)
                    if stop.is_set():
                        break

            reading = [key]
            with ThreadPoolExecutor(1) as pool:
                linking = pool.submit(link)
                while not linking.done():
                    assert connector.get(reading[-1]) == value
                linking.result()

    def test_one_of_many_takes(self, connector: RedisConnector) -> None:
        for value in (b"", b"small", pattern(100_000)):
            key = connector.put(value)
            start = threading.Barrier(8, timeout=20)

            def take(_: int, key: Any = key, start: Any = start) -> Any:
                start.wait()
                return connector.take(key)

            with ThreadPoolExecutor(8) as pool:
                taken = list(pool.map(take, range(8)))
            found = [view for view in taken if view is not None]
            assert len(found) == 1
            assert found[0] == value
            assert not connector.exists(key)
        assert connector.usage().objects == 0

    def test_taking_a_link_leaves_the_other(self, redis_server: RedisServer) -> None:
        with RedisConnector(redis_server.url, chunk=100) as connector:
            key = connector.put(pattern(1000))
            other = connector.link(key)
            assert other is not None
            assert connector.take(key) == pattern(1000)
            assert connector.get(other) == pattern(1000)
            assert connector.take(other) == pattern(1000)
            assert connector.take(other) is None
            assert not objects(redis_server)

    def test_what_could_not_be_read_is_left_for_another_taker(
        self, connector: RedisConnector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = connector.put(b"x")

        def fail(*args: Any) -> Any:
            raise ConnectionResetError("just now")

        with monkeypatch.context() as patched:
            patched.setattr("daskref.connectors.redisobjects.read", fail)
            patched.setattr(connector._wires, "_retries", 0)
            with pytest.raises(ConnectorUnavailableError, match="just now"):
                connector.take(key)
        assert connector.take(key) == b"x"

    @pytest.mark.parametrize("value", [b"", b"small", pattern(1000)])
    def test_a_key_before_its_object(
        self, redis_server: RedisServer, value: bytes
    ) -> None:
        with RedisConnector(redis_server.url, chunk=100) as connector:
            key, known = connector.new_key(), connector.new_key(value)
            assert known.nbytes == len(value)
            assert connector.get(key) is None
            assert not connector.exists(key)
            connector.set(key, value)
            connector.set_frames(known, [value[:2], value[2:]])
            assert connector.get_batch([key, known]) == [value, value]
            with pytest.raises(ConnectorError, match="already"):
                connector.set(key, b"another")
            assert connector.get(key) == value
            assert connector.usage() == (2, 2 * len(value))
            connector.evict_batch([key, known])
            assert not objects(redis_server)

    def test_a_key_of_another_session_cannot_be_set(
        self, redis_server: RedisServer, connector: RedisConnector
    ) -> None:
        with (
            RedisConnector(redis_server.url) as other,
            pytest.raises(ConnectorError, match="another session"),
        ):
            connector.set(other.new_key(), b"x")

    def test_objects_of_other_sessions_are_found(
        self, redis_server: RedisServer, connector: RedisConnector
    ) -> None:
        with RedisConnector(redis_server.url) as other:
            key = other.put(b"theirs")
            assert connector.get(key) == b"theirs"
            link = connector.link(key)
            assert link is not None
            assert connector.take(key) == b"theirs"
            connector.evict(link)
            assert other.usage().objects == 0

    def test_keys_that_proxystore_made(
        self, redis_server: RedisServer, connector: RedisConnector
    ) -> None:
        name = "0f8fad5b-d9cb-469f-a165-70867728950e"
        redis_server.ask("SET", name, "theirs")
        assert connector.get((name,)) == b"theirs"
        assert connector.exists((name,))
        assert connector.link((name,)) is None
        assert not connector.renew((name,), 5)
        assert connector.take((name,)) == b"theirs"
        assert connector.take((name,)) is None
        redis_server.ask("SET", name, "theirs")
        connector.evict((name,))
        assert connector.get((name,)) is None

    @pytest.mark.parametrize(
        "key",
        [
            (KEY,),
            (KEY, "5"),
            (KEY, -2),
            (KEY, True),
            (KEY + "0", 5),
            (KEY.replace("daskref", "another"), 5),
            ("daskref:" + KEY, 5),
            ("users",),
            ("0f8fad5b-d9cb-469f-a165-70867728950e", 5),
        ],
    )
    def test_foreign_keys(self, key: Any) -> None:
        with pytest.raises(WireError, match="not a RedisKey"):
            checked(key, "daskref")

    def test_batches_are_one_exchange(
        self, connector: RedisConnector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent = []
        run = connector._wires.run
        monkeypatch.setattr(
            connector._wires, "run", lambda *a, **k: sent.append(1) or run(*a, **k)
        )
        keys = connector.put_batch([b"%d" % i for i in range(1000)])
        assert len(sent) == 1
        assert connector.get_batch(keys) == [b"%d" % i for i in range(1000)]
        assert len(sent) == 2
        connector.evict_batch(keys[:400])
        assert len(sent) == 3
        assert [*map(bool, connector.get_batch(keys))] == [False] * 400 + [True] * 600


class TestSessions:
    def test_closing_removes_what_it_made_and_nothing_else(
        self, redis_server: RedisServer
    ) -> None:
        theirs = {"daskref:not ours", "users"}
        for name in theirs:
            redis_server.ask("SET", name, "1")
        with RedisConnector(redis_server.url) as bystander:
            kept = bystander.put(b"kept")
            before = redis_server.names()
            with RedisConnector(redis_server.url, chunk=100) as first:
                keys = [first.put(pattern(n)) for n in (1, 1000)]
                first.link(keys[0])
                first.link(keys[1])
                first.renew(keys[0], 100)
                second = RedisConnector.from_config(first.config())
                second.put(b"second")
            assert second.get(keys[1]) == pattern(1000)
            second.close()
            assert redis_server.names() - before == set()
            assert bystander.get(kept) == b"kept"
        assert redis_server.names() == theirs
        redis_server.ask("DEL", *theirs)

    def test_what_is_not_cleared_stays_for_ever(
        self, redis_server: RedisServer
    ) -> None:
        with RedisConnector(redis_server.url, clear=False, chunk=100) as first:
            keys = [first.put(pattern(n)) for n in (1, 1000)]
        assert {redis_server.ask("TTL", key) for key in objects(redis_server)} == {-1}
        again = RedisConnector.from_config(first.config())
        assert again.get_batch(keys) == [pattern(1), pattern(1000)]
        again.close(clear=True)
        assert not objects(redis_server)
        assert not redis_server.names()

    def test_everything_of_a_session_has_a_time_to_live(
        self, redis_server: RedisServer
    ) -> None:
        with RedisConnector(redis_server.url, chunk=100) as connector:
            keys = [connector.put(pattern(n)) for n in (1, 1, 1000)]
            connector.link(keys[0])
            connector.link(keys[2])
            connector.renew(keys[1], 100)
            connector.set(connector.new_key(), b"x")
            lives = {k: redis_server.ask("PTTL", k) for k in redis_server.names()}
            assert all(0 < left <= 600_000 for left in lives.values()), lives

    @pytest.mark.slow
    def test_objects_of_killed_processes_go_by_themselves(
        self, redis_server: RedisServer, child: Callable[..., Child]
    ) -> None:
        code = """
from daskref.connectors.redis import RedisConnector
connector = RedisConnector(url, ttl=0.6, chunk=100)
keys = [connector.put(bytes(n)) for n in (10, 1000)]
connector.link(keys[1])
say(1)
input()
"""
        process = child(code, url=redis_server.url)
        process.line()
        assert objects(redis_server)
        # renewed, while it lives, for longer than they would live
        begin = time.monotonic()
        before = objects(redis_server)
        wait_until(lambda: time.monotonic() > begin + 1.5)
        assert objects(redis_server) == before
        process.kill()
        wait_until(lambda: not redis_server.names(), "the server forgets everything")

    @pytest.mark.slow
    def test_another_participant_renews_what_a_killed_one_put(
        self, redis_server: RedisServer, child: Callable[..., Child]
    ) -> None:
        code = """
from daskref.connectors.redis import RedisConnector
connector = RedisConnector.from_config(config)
say(tuple(connector.put(bytes(1000))))
input()
"""
        with RedisConnector(redis_server.url, ttl=0.6, lease=0.3, chunk=100) as mine:
            process = child(code, config=mine.config())
            key = eval(process.line())
            process.kill()
            begin = time.monotonic()
            wait_until(lambda: time.monotonic() > begin + 1.5)
            assert mine.get(key) == bytes(1000)
            # nobody knows it, and its writer is gone
            known = mine.put(b"known")
            assert mine.sweep([key], 0) == []
            swept = wait_until(lambda: mine.sweep([], 0), "its writer counts as dead")
            assert swept == [key]
            assert mine.get(known) == b"known"
            assert len(objects(redis_server)) == 1

    def test_what_a_dead_writer_left_half_written_is_swept(
        self, redis_server: RedisServer
    ) -> None:
        with RedisConnector(redis_server.url, chunk=100) as connector:
            name = "0" * 8 + "-" + "1" * 24
            value = memoryview(pattern(1000))
            for command in write(connector._session, name, [value], 100)[:-2]:
                connector._wires.ask(command)
            assert connector.sweep() == []
            assert connector.sweep([], 60) == []
            assert len(objects(redis_server)) == 10
            assert connector.sweep([], 0) == []
            assert not objects(redis_server)

    @pytest.mark.slow
    def test_the_last_one_alive_clears(
        self, redis_server: RedisServer, child: Callable[..., Child]
    ) -> None:
        code = """
from daskref.connectors.redis import RedisConnector
connector = RedisConnector.from_config(config)
connector.put(b"x")
say(1)
input()
"""
        with RedisConnector(redis_server.url) as connector:
            living = child(code, config=connector.config())
            killed = child(code, config=connector.config())
            for each in living, killed:
                each.line()
            killed.kill()
        assert len(objects(redis_server)) == 2
        living.say()
        living.wait()
        assert not redis_server.names()

    def test_a_lease_is_the_servers(self, redis_server: RedisServer) -> None:
        with RedisConnector(redis_server.url) as first:
            key, owned = first.put(b"leased"), first.put(b"owned")
            with RedisConnector.from_config(first.config()) as second:
                assert second.renew(key, 0)
                assert second.renew(owned, 0)
            assert first.sweep([owned]) == [key]
            assert first.renew(owned, 1000)
            assert first.sweep([], 0) == []

    def test_a_session_that_has_ended(self, redis_server: RedisServer) -> None:
        with RedisConnector(redis_server.url) as connector:
            config = connector.config()
        with pytest.raises(ConnectorUnavailableError, match="has ended"):
            RedisConnector.from_config(config)
        assert not redis_server.names()

    def test_no_thread_stays_behind(self, redis_server: RedisServer) -> None:
        def beating() -> int:
            return sum(t.name == "daskref-redis" for t in threading.enumerate())

        before = beating()
        connectors = [RedisConnector(redis_server.url) for _ in range(3)]
        assert beating() == before + 3
        connectors[0].close()
        assert beating() == before + 2
        del connectors
        wait_until(lambda: beating() == before, "collected ones stop")

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_takes_part_by_itself(
        self, redis_server: RedisServer, connector: RedisConnector
    ) -> None:
        key = connector.put(b"parent's")
        members = f"daskref:{connector.config()['session']}:members"
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                ours = connector.put(b"child's")
                assert connector.get(key) == b"parent's"
                assert redis_server.ask("ZCARD", members) == 2
                connector.close()
                os.write(writing, pickle.dumps(tuple(ours)))
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            theirs = pickle.loads(pipe.read())
        os.waitpid(pid, 0)
        assert connector.get(theirs) == b"child's"
        assert connector.get(key) == b"parent's"
        assert theirs[0].rpartition(":")[2][:8] != key[0].rpartition(":")[2][:8]
        assert redis_server.ask("ZCARD", members) == 1


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
            ("redis://", {"timeout": 0}, "a positive number of seconds"),
            ("redis://", {"timeout": "soon"}, "a positive number of seconds"),
            ("redis://", {"lease": -1}, "a positive number of seconds"),
            ("redis://", {"retries": "many"}, "a number from 0 to 100"),
            ("redis://", {"chunk": "1 GiB"}, "at most 512 MB"),
            ("redis://", {"chunk": 0}, "at most 512 MB"),
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


class TestFailures:
    def test_every_exception_of_the_driver_is_translated(self) -> None:
        from redis import exceptions

        from daskref.connectors.rediserrors import ADVICE, CODES, translated

        theirs = {
            found
            for _, found in inspect.getmembers(exceptions, inspect.isclass)
            if issubclass(found, Exception)
        }
        assert not theirs - ADVICE.keys()
        assert set(CODES.values()) <= ADVICE.keys()
        for cls in theirs:
            error = translated(cls.__new__(cls), "<it>")
            assert isinstance(error, ConnectorError)
            assert error.message.count("(") >= 1
            assert "{}" not in error.message

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
            ("", "NOAUTH"),
            (":wrong", "did not accept user and password"),
            ("eve:wrong", "did not accept user and password"),
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
            connector._wires._pause_ends = time.monotonic() + 1000
            made: list[int] = []
            make = connector._wires._make
            monkeypatch.setattr(
                connector._wires, "_make", lambda: made.append(1) or make()
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
                connector._wires.ask(command)

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
