"""Dask on hosts of their own. Marks: slow, hosts.

Cost: seconds a test. Needs: Linux namespaces, as root or as a user who may make them,
and ``ip``, ``tc`` and ``nft``. ``make test-hosts`` runs these, ``make test`` does not.
"""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before those without the mark are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.hosts)
