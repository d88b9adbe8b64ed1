from __future__ import annotations

import pytest

from daskref.connectors.credentials import mask, recall, remember
from daskref.connectors.registry import open_connector
from daskref.exceptions import ConfigError


def test_what_is_remembered_is_copied():
    place = "redis://nowhere.example:1/0"
    secrets = {"password": "one"}
    assert recall(place) == {}
    remember(place, secrets)
    secrets["password"] = "two"
    remember(place, {})
    recall(place)["password"] = "three"
    assert recall(place) == {"password": "one"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:p@host", "redis://***@host"),
        ("redis://u:p@ss@host/1", "redis://***@host/1"),
        ("at rediss://u:p@host, or s3://b/?key=x&b=1", None),
        ("file:///a/b@c", "file:///a/b@c"),
    ],
)
def test_credentials_in_urls_are_masked(text, masked):
    expected = masked or "at rediss://***@host, or s3://b/?key=***&b=1"
    assert mask(text) == expected


def test_an_error_about_a_spec_does_not_show_its_password():
    with pytest.raises(ConfigError) as caught:
        open_connector("rediz://user:hunter2@host/0")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.args)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
