from __future__ import annotations

from collections.abc import Callable

import pytest

from daskref.connectors import Connector, SharedMemoryConnector
from daskref.testing import RULES, check_connector
from tests.connectors.conftest import RELAXED

#: Rules that start a process or write much.
SLOW = {"processes", "round-trips", "views-outlive"}


@pytest.mark.parametrize(
    "rule", [pytest.param(r, marks=pytest.mark.slow) if r in SLOW else r for r in RULES]
)
def test_keeps_the_contract(
    rule: str, make: Callable[[], Connector], scheme: str
) -> None:
    if rule in RELAXED.get(scheme, set()):
        pytest.skip("relaxed for this connector")
    check_connector(make, relax=RULES.keys() - {rule})


@pytest.mark.parametrize("rule", sorted(RULES.keys() - SLOW))
@pytest.mark.parametrize(
    "options", [{"budget": 0}, {"recycle": 0}, {"budget": "40 MiB"}]
)
def test_shared_memory_keeps_the_contract_under_limits(rule, options, tmp_path):
    check_connector(
        lambda: SharedMemoryConnector(spill_directory=tmp_path, **options),
        relax=RULES.keys() - {rule},
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_shared_memory_keeps_the_contract_without_populate(tmp_path, monkeypatch):
    monkeypatch.setattr("daskref.connectors.files.parts.can_populate", lambda: False)
    check_connector(
        lambda: SharedMemoryConnector(spill_directory=tmp_path), relax={"processes"}
    )
