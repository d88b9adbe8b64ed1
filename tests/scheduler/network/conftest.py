"""Sites for what the scheduler does for hosts that are apart."""

from __future__ import annotations

import pytest

from tests.support.sites import Site


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def lazy() -> Site:
    """A site whose workers serve once they have to."""
    return Site(lazily=True)
