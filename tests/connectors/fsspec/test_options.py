from __future__ import annotations

import json

import pytest

from daskref.connectors.fsspec._options import (
    check_names,
    checked,
    for_driver,
    hide,
    merge,
    read_url,
    split,
)
from daskref.exceptions import ConfigError


@pytest.mark.parametrize(
    ("url", "protocol", "clean", "options"),
    [
        ("s3://bucket", "s3", "s3://bucket", {}),
        ("s3://bucket/a/b/", "s3", "s3://bucket/a/b", {}),
        (
            "s3://bucket/a?endpoint_url=http://127.0.0.1:5000&anon=true",
            "s3",
            "s3://bucket/a",
            {"endpoint_url": "http://127.0.0.1:5000", "anon": "true"},
        ),
        (
            "s3://AKIA:sec%2Fret@bucket/a",
            "s3",
            "s3://bucket/a",
            {"username": "AKIA", "password": "sec/ret"},
        ),
        ("memory://", "memory", "memory://", {}),
        ("memory:///a/b", "memory", "memory:///a/b", {}),
        ("memory://a/b", "memory", "memory://a/b", {}),
        ("fsspec+file:///tmp/x", "file", "file:///tmp/x", {}),
        (
            "fsspec+sftp://me:pw@host:22/dir",
            "sftp",
            "sftp://host:22/dir",
            {"username": "me", "password": "pw"},
        ),
        (
            "abfs://container@account.dfs.core.windows.net/a",
            "abfs",
            "abfs://container@account.dfs.core.windows.net/a",
            {},
        ),
    ],
)
def test_urls(url, protocol, clean, options):
    assert read_url(url) == (protocol, clean, options)


@pytest.mark.parametrize(
    "url",
    [
        "s3:///prefix",
        "s3://",
        "gs://",
        "fsspec://host/a",
        "fsspec+://a",
        "bucket/prefix",
        "s3:bucket",
        "s3://bucket/a#b",
        "s3://bucket?anon",
        "s3://[",
    ],
)
def test_malformed_urls(url):
    with pytest.raises(ConfigError, match=r"s3://bucket|://bucket/prefix"):
        read_url(url)


def test_a_malformed_url_does_not_show_its_password():
    with pytest.raises(ConfigError) as caught:
        read_url("s3://AKIA:hunter2@bucket/a#b")
    assert "hunter2" not in str(caught.value)


SECRETS = {
    "key": "AKIASECRET",
    "secret": "s3cr3t",
    "token": {"private_key": "-----BEGIN"},
    "username": "user",
    "whatever_comes_next_year": "unknown",
    "client_kwargs": {"aws_secret_access_key": "nested", "pw": "short-name"},
    "config_kwargs": {"proxies": {"http": "http://user:pw@proxy"}},
    "s3_additional_kwargs": {"SSECustomerKey": "customer"},
}
PUBLIC = {
    "anon": False,
    "endpoint_url": "http://127.0.0.1:5000",
    "client_kwargs": {"region_name": "eu-central-1", "verify": False},
    "config_kwargs": {"s3": {"addressing_style": "path"}},
    "s3_additional_kwargs": {"ServerSideEncryption": "aws:kms"},
    "account_name": "me",
}


def test_what_is_not_known_to_be_harmless_is_secret():
    together = merge(PUBLIC, SECRETS)
    assert split(together) == (PUBLIC, SECRETS)
    assert merge(*split(together)) == together


@pytest.mark.parametrize("name", ["endpoint_url", "profile", "host"])
def test_a_harmless_option_with_a_password_in_it_is_secret(name):
    option = {name: "http://user:password@host"}
    assert split(option) == ({}, option)


def test_all_values_of_secrets_are_hidden_in_texts():
    hidden = hide(SECRETS)
    text = json.dumps(SECRETS)
    for secret in ("AKIASECRET", "s3cr3t", "-----BEGIN", "nested", "user:pw"):
        assert secret in text
        assert secret not in hidden(text)
    assert hidden("an innocent text") == "an innocent text"


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ({"anon": "true"}, {"anon": True}),
        ({"use_ssl": "0"}, {"use_ssl": False}),
        ({"secret": "123"}, {"secret": "123"}),
        ({"client_kwargs": '{"verify": false}'}, {"client_kwargs": {"verify": False}}),
    ],
)
def test_options_of_urls_get_the_types_of_drivers(given, result):
    assert checked(given) == result


@pytest.mark.parametrize(
    "given",
    [
        {"anon": "perhaps"},
        {"anon": 3},
        {"client_kwargs": "{"},
        {"client_kwargs": "[1]"},
        {"client_kwargs": 5},
        {"token": object()},
    ],
)
def test_malformed_options_do_not_show_their_values(given):
    with pytest.raises(ConfigError) as caught:
        checked(given)
    (name, value), *_ = given.items()
    assert name in str(caught.value)
    assert repr(value) not in str(caught.value)


def test_typing_errors_in_names_are_found():
    valid = ["key", "secret", "endpoint_url", "kwargs"]
    check_names({"endpoint_url": 1, "region_name": 2, "client_kwargs": 3}, valid)
    check_names({"something_of_a_later_version": 1}, valid)
    with pytest.raises(ConfigError, match="did you mean endpoint_url"):
        check_names({"endpoint_ulr": 1}, valid)


def test_timeouts_are_handed_to_botocore_and_users_go_first():
    limits = {"connect_timeout": 1.5, "timeout": 9.0, "concurrency": 32}
    config = for_driver("s3", {}, limits)["config_kwargs"]
    assert config["connect_timeout"] == 1.5
    assert config["read_timeout"] == 9.0
    assert config["max_pool_connections"] == 32
    assert config["retries"]["total_max_attempts"] == 1
    mine = {"config_kwargs": {"read_timeout": 1}}
    assert for_driver("s3", mine, limits)["config_kwargs"]["read_timeout"] == 1
    assert "config_kwargs" not in for_driver("memory", {}, limits)
