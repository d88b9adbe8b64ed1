"""Random and long runs, each of which shows its seed. Mark: stress.

Cost: up to minutes a test. Needs: a cluster of processes. ``make stress`` runs these
and what has the mark in other folders, beside what it varies; ``make test`` does not.
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
            item.add_marker(pytest.mark.stress)
