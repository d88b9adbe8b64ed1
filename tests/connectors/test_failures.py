"""How a failure of a store is told, whatever its driver."""

from __future__ import annotations

import errno
import os
import re

import pytest

from daskref.connectors.failures import Category, Finding, of_system
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


@pytest.mark.parametrize(
    ("number", "unavailable", "text"),
    [
        (errno.ENOSPC, False, "the directory is full .* more room"),
        (errno.EROFS, True, "the directory refused it .* another directory"),
        (errno.ENOENT, True, "the directory does not exist"),
        (errno.ENOTDIR, True, "the directory cannot be used .* not a directory"),
        (errno.EMFILE, False, "the directory failed .*ulimit"),
        (errno.EIO, False, "the directory failed"),
    ],
)
def test_what_the_system_says(number: int, unavailable: bool, text: str) -> None:
    said = os.strerror(number)
    error = of_system(OSError(number, said), "<here>", "a put failed")
    assert isinstance(error, ConnectorUnavailableError) is unavailable
    assert re.search(text, str(error))
    assert str(error).startswith("<here>: a put failed: the directory")
    assert said in str(error)
