"""Sessions in Redis servers: who takes part, what lives how long, who clears."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable

import pytest

from daskref.connectors.redis import RedisConnector
from daskref.connectors.redis._objects import write
from daskref.exceptions import ConnectorUnavailableError
from tests.support.child_processes import Child
from tests.support.common import wait_until
from tests.support.redis_servers import RedisServer, objects, pattern


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
                connector._server.ask(command)
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
