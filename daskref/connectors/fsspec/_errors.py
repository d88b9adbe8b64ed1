"""What fsspec and its drivers say when something fails, in eight categories."""

from __future__ import annotations

import os
from collections.abc import Callable

from daskref.connectors.failures import FULL, Category, Finding
from daskref.exceptions import DaskrefError

#: Errors that mean that the server did not answer: of botocore, aiohttp, requests,
#: urllib3 and Azure. By name, since no driver is imported for the sake of its errors.
UNREACHABLE = frozenset([
    "ClientConnectionError", "ClientPayloadError", "HTTPClientError",
    "ConnectionError", "EndpointResolutionError", "ServiceRequestError",
    "ServiceResponseError", "TransportError", "UnknownEndpointError", "Timeout",
    "ProtocolError",
])  # fmt: skip
#: Errors that mean that the driver found nothing to identify itself with.
UNIDENTIFIED = frozenset([
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
    "TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError",
    "NoAuthTokenError", "LoginError", "InvalidConfigError", "ProfileNotFound",
    "RefreshError", "DefaultCredentialsError", "ClientAuthenticationError",
])  # fmt: skip
#: Codes of S3 that stand behind errors of other kinds.
NO_BUCKET, _FULL = "NoSuchBucket", "XMinioStorageFull"
_REFUSED = frozenset({"InvalidToken", "TokenRefreshRequired", "MissingSecurityHeader"})


def code(exc: BaseException) -> str:
    """Return the code in the server's answer that led to an error, or ``""``."""
    for each in (exc, exc.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def translate(
    exc: Exception,
    connector: str,
    what: str,
    hidden: Callable[[str], str],
    timeout: float,
    unavailable: bool = False,
) -> Exception:
    """Return daskref's error for one of a driver.

    Parameters
    ----------
    exc
        Whatever was raised. Those of daskref come back as they are.
    what
        What failed, as the begin of a sentence.
    hidden
        Takes secrets out of a text.
    timeout
        Of one request, in seconds.
    unavailable
        Whether without that the store cannot be used.

    Returns
    -------
    Exception
        :class:`ConnectorUnavailableError` if the store cannot be used at all from this
        process, else :class:`ConnectorError`.
    """
    if isinstance(exc, DaskrefError):
        return exc
    found = _find(exc, timeout)
    return found.error(connector, hidden(_said(exc)), what, unavailable)


def _find(exc: Exception, timeout: float) -> Finding:
    names = {cls.__name__ for cls in type(exc).__mro__}
    if isinstance(exc, TimeoutError):
        return Finding(
            Category.TIMED_OUT,
            f"There was no answer within {timeout:g} s. Is the server up, and slower "
            "than the option timeout allows?",
        )
    if names & UNREACHABLE or isinstance(exc, ConnectionError):
        return Finding(Category.UNREACHABLE, "Check its address")
    if names & UNIDENTIFIED:
        return Finding(
            Category.CREDENTIALS,
            "Give them as options, or in the environment of every process",
        )
    if code(exc) == NO_BUCKET:
        return Finding(Category.MISSING, "daskref makes none", "the bucket")
    if isinstance(exc, PermissionError) or code(exc) in _REFUSED:
        return Finding(
            Category.FORBIDDEN,
            "Check the credentials, and that they allow to list, read, write and "
            "delete below the prefix",
            "the store",
        )
    if code(exc) == _FULL or (isinstance(exc, OSError) and exc.errno in FULL):
        return Finding(Category.FULL, "Make room, or use another", "the store")
    return Finding(Category.OTHER, subject="the store")


def _said(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.errno and not exc.__cause__:
        return exc.strerror or os.strerror(exc.errno)
    text = " ".join(str(exc).split()) or repr(exc)
    return text if isinstance(exc, OSError) else f"{type(exc).__name__}: {text}"
