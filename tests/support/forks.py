"""Run a function in a forked child of this process, within a bound."""

from __future__ import annotations

import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import Any

#: Seconds after which a child is taken to hang.
PATIENCE = 30


def forked(check: Callable[[], Any], end: Callable[[], Any] | None = None) -> str:
    """Run a function in a child; return what went wrong, or ``"fine"``."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and newer: other threads run
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        os.close(reader)
        signal.alarm(PATIENCE)  # its default action ends the child
        try:
            said = "fine" if check() else "it was false"
        except BaseException:
            said = traceback.format_exc()
        os.write(writer, said.encode()[-4000:])
        os.close(writer)
        if end is not None:
            signal.alarm(PATIENCE)
            end()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        # one that hangs before it comes here: in a function that runs after a fork
        if not select.select([file], [], [], PATIENCE + 10)[0]:
            os.kill(pid, signal.SIGKILL)
        said = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return said if not status else f"{said or 'hung'}, exit status {status}"
