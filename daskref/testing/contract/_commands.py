"""Second processes, for rules that need one.

Such a process needs nothing but the package: no test framework, and no file of the
rule's caller.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from daskref.connectors.base import Connector
from daskref.connectors.registry import connector_path, load_connector

#: Seconds that a second process may take.
TIMEOUT = 120


def start(
    function: Callable[..., Any], connector: Connector, *args: Any, **options: Any
) -> subprocess.Popen[bytes]:
    """Call ``function(another connector of the store, *args)`` in a new Python.

    The end of its standard output is the pickled result. *options*: of ``Popen``.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", f"import {__name__} as t; t._serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,
    )
    assert child.stdin is not None
    task = (function, connector_path(connector), connector.config(), args)
    child.stdin.write(pickle.dumps(sys.path) + pickle.dumps(task))
    child.stdin.flush()
    return child


def _serve() -> None:
    stream = sys.stdin.buffer
    sys.path[:] = pickle.load(stream)
    function, path, config, args = pickle.load(stream)
    with load_connector(path, config) as connector:
        result = function(connector, *args)
    sys.stdout.buffer.write(pickle.dumps(result))
