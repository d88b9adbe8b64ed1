"""Parts that a test needs and that a machine may lack.

On a developer's machine such a test is skipped. Under ``CI=true`` it fails: there,
everything that the tests need is to be installed.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def missing(reason: str) -> None:
    """Skip the test for a missing part; fail it under CI."""
    __tracebackhide__ = True
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(f"missing part under CI: {reason}", pytrace=False)
    pytest.skip(reason)


def require(condition: object, reason: str) -> None:
    """Go on if *condition* is true, else report *reason* as a missing part."""
    __tracebackhide__ = True
    if not condition:
        missing(reason)


def require_module(name: str) -> Any:
    """Import and return a module, or report it as a missing part."""
    __tracebackhide__ = True
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        missing(f"no module {name!r} ({exc})")
