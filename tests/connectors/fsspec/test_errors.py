"""No error of a driver gets past the mapping, and each becomes a sentence."""

from __future__ import annotations

import errno
import inspect
import pickle

import aiohttp
import botocore.exceptions as botocore
import pytest
import requests.exceptions as requests
import s3fs.errors as s3fs_errors
from fsspec.exceptions import FSTimeoutError

from daskref.connectors.fsspec._errors import UNIDENTIFIED, UNREACHABLE, translate
from daskref.exceptions import (
    ConnectorError,
    ConnectorUnavailableError,
    MissingKeyError,
    WireError,
)


def translated(exc):
    return translate(exc, "<here>", "it failed", lambda text: text, 3.0)


def instances(module):
    """One of each class of errors in a module, however it is made."""
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if issubclass(cls, Exception) and cls.__module__ == module.__name__:
            exc = cls.__new__(cls)
            Exception.__init__(exc, "what the driver said")
            yield pytest.param(exc, id=cls.__name__)


@pytest.mark.parametrize("exc", [*instances(botocore)])
def test_every_error_of_botocore_becomes_one_of_ours(exc):
    error = translated(exc)
    assert isinstance(error, ConnectorError)
    assert str(error).startswith("<here>: it failed: ")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("code", sorted(s3fs_errors.ERROR_CODE_TO_EXCEPTION))
def test_every_answer_of_s3_becomes_one_of_ours(code):
    response = {"Error": {"Code": code, "Message": "what the server said"}}
    answer = botocore.ClientError(response, "PutObject")
    error = translated(s3fs_errors.translate_boto_error(answer))
    assert isinstance(error, ConnectorError)
    assert "what the server said" in str(error) or "no answer" in str(error)
    refused = code in ("AccessDenied", "403", "InvalidAccessKeyId", "ExpiredToken")
    assert not refused or "refused" in str(error)
    assert isinstance(error, ConnectorUnavailableError) or not refused


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_code_of_the_system_becomes_one_of_ours(code):
    error = translated(OSError(code, "what the system said"))
    assert isinstance(error, ConnectorError)
    full = code in (errno.ENOSPC, errno.EDQUOT)
    assert not full or "full" in str(error)


@pytest.mark.parametrize(
    ("exc", "says"),
    [
        (TimeoutError(), "within 3 s"),
        (FSTimeoutError(), "within 3 s"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "cannot be reached"),
        (botocore.EndpointConnectionError(endpoint_url="http://x"), "cannot be reach"),
        (botocore.ConnectTimeoutError(endpoint_url="http://x"), "cannot be reached"),
        (botocore.ReadTimeoutError(endpoint_url="http://x"), "cannot be reached"),
        (aiohttp.ServerDisconnectedError(), "cannot be reached"),
        (botocore.NoCredentialsError(), "no credentials that work"),
        (PermissionError("Forbidden"), "refused it (Forbidden)"),
    ],
)
def test_stores_out_of_reach_are_unavailable(exc, says):
    error = translated(exc)
    assert type(error) is ConnectorUnavailableError
    assert says in str(error)


def test_a_bucket_that_is_missing_is_not_an_object_that_is():
    response = {"Error": {"Code": "NoSuchBucket", "Message": "no bucket"}}
    answer = botocore.ClientError(response, "PutObject")
    error = translated(s3fs_errors.translate_boto_error(answer))
    assert "the bucket does not exist" in str(error)


@pytest.mark.parametrize("exc", [WireError("text"), MissingKeyError("k", "c")])
def test_our_own_errors_stay(exc):
    assert translated(exc) is exc


@pytest.mark.parametrize("exc", [ValueError(), RuntimeError("odd\ntext"), KeyError(1)])
def test_whatever_else_is_raised_becomes_one_line(exc):
    text = str(translated(exc))
    assert type(exc).__name__ in text
    assert "\n" not in text


def test_names_of_errors_exist_where_drivers_are_installed():
    known = {name for module in (botocore, aiohttp, requests) for name in vars(module)}
    elsewhere = {
        # Azure's, Google's, urllib3's
        *["ServiceRequestError", "ServiceResponseError", "ClientAuthenticationError"],
        *["TransportError", "RefreshError", "DefaultCredentialsError"],
        *["ProtocolError"],
    }
    assert not (UNREACHABLE | UNIDENTIFIED) - known - elsewhere
