"""Objects in Redis servers: bytes, chunks, links, takes, keys."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daskref.connectors.redis import RedisConnector
from daskref.connectors.redis._objects import RedisKey, checked, write
from daskref.connectors.redis._wire import writable
from daskref.exceptions import ConnectorError, ConnectorUnavailableError, WireError
from daskref.testing import RULES, check_connector
from tests.support.redis_servers import RedisServer, objects, pattern

KEY = "daskref:" + "0" * 32 + ":" + "0" * 8 + "-" + "0" * 24


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
                connector._server.ask(command)
                assert connector.get(key) is None
                assert not connector.exists(key)
            connector._server.ask(commands[-2])
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
            patched.setattr("daskref.connectors.redis._objects.read", fail)
            patched.setattr(connector._server._retry, "_retries", 0)
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
            ("0f8fad5b-d9cb-469f-a165-70867728950e",),
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
        run = connector._server.run
        monkeypatch.setattr(
            connector._server, "run", lambda *a, **k: sent.append(1) or run(*a, **k)
        )
        keys = connector.put_batch([b"%d" % i for i in range(1000)])
        assert len(sent) == 1
        assert connector.get_batch(keys) == [b"%d" % i for i in range(1000)]
        assert len(sent) == 2
        connector.evict_batch(keys[:400])
        assert len(sent) == 3
        assert [*map(bool, connector.get_batch(keys))] == [False] * 400 + [True] * 600
