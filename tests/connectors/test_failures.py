"""How a failure of a store is told, whatever its driver."""

from __future__ import annotations

import pytest

from daskref.connectors.failures import Category, Finding
from daskref.exceptions import ConnectorError, ConnectorUnavailableError


def test_a_sentence_says_what_failed_where_and_what_to_do() -> None:
    finding = Finding(Category.MISSING, "Make it", "the bucket")
    error = finding.error("<here>", "404", "an object could not be written")
    assert str(error) == (
        "<here>: an object could not be written: the bucket does not exist (404). "
        "Make it"
    )
    assert str(Finding(Category.FULL).error("<here>", "no")) == (
        "<here>: the server is full (no)"
    )


@pytest.mark.parametrize("category", Category)
def test_what_is_full_or_failed_once_may_be_used_again(category: Category) -> None:
    error = Finding(category).error("<here>", "")
    available = category in (Category.FULL, Category.OTHER)
    assert type(error) is (ConnectorError if available else ConnectorUnavailableError)


def test_credentials_are_masked() -> None:
    error = Finding(Category.OTHER).error("<here>", "at redis://me:secret@host")
    assert "secret" not in str(error)
