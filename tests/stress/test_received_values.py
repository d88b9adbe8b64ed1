"""Thousands of random values by all routes; shows its seed.

``DASKREF_SEED=…`` repeats a run. What differs is compared with plain Dask on a cluster
of its own, by the same lines.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.support.routes import Call, Losses, Sites, calls
from tests.support.values import KINDS, MANY

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings(  # the threads of Dask use it, while hypothesis draws
        "ignore:Do not use the `random` module"
        ":hypothesis.errors.HypothesisDeprecationWarning"
    ),
    pytest.mark.filterwarnings(  # where an example fails, it is shown in full
        "ignore:Generating overly large repr:hypothesis.errors.HypothesisWarning"
    ),
    pytest.mark.filterwarnings(  # that is NumPy's; the zoo has one
        "ignore:the matrix subclass:PendingDeprecationWarning"
    ),
]

SEED = int(os.environ.get("DASKREF_SEED", random.randrange(1 << 32)))

_settings = settings(
    max_examples=int(os.environ.get("DASKREF_EXAMPLES", 700)),
    deadline=None,
    derandomize=False,
    database=None,
    print_blob=True,
    phases=["generate"],  # a failure says where it differs: no need to shrink it
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Sites]:
    """The clusters that these tests share."""
    with Sites() as sites:
        yield sites


@pytest.fixture(scope="module")
def losses(cluster: Sites) -> Iterator[Losses]:
    print(f"seed {SEED}")
    losses = Losses(cluster.plain)
    yield losses
    print("lost without daskref as well:", dict(losses.accepted))


@pytest.mark.parametrize("threshold", [1, "1 kB", "1 MiB"])
def test_nested_values(cluster: Sites, losses: Losses, threshold: Any) -> None:
    site = cluster.by_threshold(threshold)

    @seed(SEED)
    @_settings
    @given(call=calls())
    def check(call: Call) -> None:
        losses.check(site, call)

    check()


@pytest.mark.parametrize("threshold", [1, "1 MiB"])
@pytest.mark.parametrize("length", [0, 1, 40, 300, MANY])
def test_each_kind(cluster: Sites, losses: Losses, threshold: Any, length: int) -> None:
    """Each at three places, against plain Dask without regard for pickle."""
    strict = Losses(cluster.plain, pickle_first=False)
    names = sorted(KINDS)
    for start in range(0, len(names), 8):
        leaves = [("leaf", name, SEED % 7, length) for name in names[start : start + 8]]
        again = [("same", i) for i in range(len(leaves))]
        call = Call("closure", leaves[:3], [*leaves[3:], ("list", again)], again[:2])
        strict.check(cluster.by_threshold(threshold), call)
    losses.accepted.update(strict.accepted)
