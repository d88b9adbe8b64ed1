"""What is deleted of objects that nobody will delete, by whichever store."""

from __future__ import annotations

import pytest

from daskref.connectors import LocalConnector
from daskref.connectors.sweeping import Row, is_due

GONE, ALIVE = "0" * 8, "1" * 8
OLD, YOUNG, GRACE, NOW = 60.0, 1.0, 30.0, 1000.0


def due(row, known=()):
    return is_due(row, known, GRACE, NOW, GONE.__eq__)


@pytest.mark.parametrize(
    ("age", "expiry", "writer", "expected"),
    [
        (OLD, None, GONE, True),
        (GRACE, None, GONE, True),
        (YOUNG, None, GONE, False),
        (OLD, None, ALIVE, False),
        # A lease alone decides: who has one may be gone, and one who lives has let it
        # end.
        (OLD, NOW + 1, GONE, False),
        (YOUNG, NOW, ALIVE, True),
        (YOUNG, NOW - 1, GONE, True),
    ],
)
def test_leases_go_before_age_and_writer(age, expiry, writer, expected):
    assert due(Row("a", age, expiry, writer)) is expected
    assert not due(Row("a", age, expiry, writer), known={"a", "b"})
    leased = expiry is not None
    assert due(Row("a", age, expiry, writer), known=None) is (leased and expected)


def test_nobody_asks_for_a_writer_in_vain():
    asked = []

    def gone(writer):
        asked.append(writer)
        return True

    rows = [
        Row("known", OLD, None, GONE),
        Row("young", YOUNG, None, GONE),
        Row("leased", OLD, NOW + 1, GONE),
        Row("expired", OLD, NOW, GONE),
        Row("orphan", OLD, None, ALIVE),
    ]
    found = [row.name for row in rows if is_due(row, {"known"}, GRACE, NOW, gone)]
    assert found == ["expired", "orphan"]
    assert asked == [ALIVE]


def test_a_local_store_has_leases_and_no_orphans():
    with LocalConnector() as connector:
        kept, ended, owned = (connector.put(b"x") for _ in range(3))
        connector.put(b"without a lease")
        assert connector.renew(kept, 1000)
        assert connector.renew(ended, -1)
        assert connector.renew(owned, -1)
        assert connector.sweep([owned], 0.0) == [ended]
        assert connector.sweep() == [owned]
        assert connector.usage().objects == 2
