"""Python processes that a test talks to."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0

#: Connectors alone, without the rest of daskref and Dask: starts much faster.
PRELUDE = f"""
import sys, types
sys.path.insert(0, {str(ROOT)!r})
package = types.ModuleType("daskref")
package.__path__ = [{str(ROOT / "daskref")!r}]
sys.modules["daskref"] = package
def say(*words):
    print(*map(repr, words), flush=True)
"""


class Child:
    """A process that runs *code*, with *names* defined, and says lines."""

    def __init__(
        self, code: str, names: dict[str, Any], prefix: tuple[str, ...] = ()
    ) -> None:
        defined = "\n".join(f"{name} = {value!r}" for name, value in names.items())
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, "-c", "\n".join([PRELUDE, defined, code])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._buffer = b""

    def line(self) -> str:
        """Return the next line it says; fail if it ends, or says nothing."""
        assert self.popen.stdout is not None
        fd = self.popen.stdout.fileno()
        deadline = time.monotonic() + TIMEOUT
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([fd], [], [], deadline - time.monotonic())
            assert ready, "the process says nothing"
            data = os.read(fd, 65536)
            assert data, f"the process ended: {self.errors()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def errors(self) -> str:
        assert self.popen.stderr is not None
        return self.popen.stderr.read().decode()

    def say(self, text: str = "") -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(text.encode() + b"\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(TIMEOUT)

    def wait(self) -> None:
        """Wait for a good end."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        status = self.popen.wait(TIMEOUT)
        assert status == 0, f"status {status}: {self.errors()}"

    def end(self) -> None:
        if self.popen.poll() is None:
            self.kill()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            assert stream is not None
            stream.close()
