"""The server's scripts delete what the policy of all stores says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from daskref.connectors.redis import RedisConnector, RedisKey
from daskref.connectors.redis._objects import write
from daskref.connectors.sweeping import Row, is_due
from tests.support.redis_servers import RedisServer, objects

#: Seconds. No sum of them is near another one, whatever time the test takes.
AGES, GRACES, LEASES = [0, 3000, 90_000], [1000.0, 30_000.0], [-500.0, 5000.0]

rows = st.lists(
    st.tuples(
        st.sampled_from(AGES),
        st.none() | st.sampled_from(LEASES),
        st.booleans(),  # whether the writer is gone
        st.booleans(),  # whether it has an owner
    ),
    max_size=6,
)


@settings(max_examples=50, deadline=None)
@given(rows, st.booleans(), st.sampled_from(GRACES))
def test_redis_and_the_policy_agree(
    redis_server: RedisServer,
    rows: list[tuple[int, float | None, bool, bool]],
    leases_only: bool,
    grace: float,
) -> None:
    with RedisConnector(redis_server.url) as connector:
        session = connector._session
        root = session.root.decode()
        now, _ = session.alive()
        expected, known = [], set()
        for number, (age, lease, gone, owned) in enumerate(rows):
            writer = "0" * 8 if gone else session.writer
            name = f"{writer}-{number:024x}"
            for command in write(session, name, [memoryview(b"x")], 100):
                connector._server.ask(command)
            entry = f"1 {now - age * 1000} 0 "
            redis_server.ask("HSET", f"{root}index", name, entry)
            expiry = None if lease is None else now / 1000 + lease
            if expiry is not None:
                ends = str(round(expiry * 1000))
                redis_server.ask("ZADD", f"{root}leases", ends, name)
            if owned:
                known.add(name)
            expected.append(Row(name, age, expiry, writer))
        owners = None if leases_only else known
        due = {
            row.name
            for row in expected
            if is_due(row, owners, grace, now / 1000, session.writer.__ne__)
        }
        keys = [RedisKey(root + name, 1) for name in known]
        swept = connector.sweep(None if leases_only else keys, grace)
        assert {key[0].removeprefix(root) for key in swept} == due
        assert len(objects(redis_server)) == len(rows) - len(due)
