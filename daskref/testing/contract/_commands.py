"""Command lines of second processes, for rules that need one.

The process needs nothing but the package: no test framework, and no file of the rule's
caller.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

#: Seconds that a second process may take.
TIMEOUT = 120


def command(function: Callable[[], None]) -> list[str]:
    """Return the command line of a Python that calls a function of a module."""
    module, name = function.__module__, function.__name__
    return [sys.executable, "-c", f"import {module} as t; t.{name}()"]
