"""A ``LocalCluster`` in a process of its own, whose scheduler can be measured.

The child process holds the scheduler and the nannies of the worker processes. It counts
for itself: what its TCP connections carried (:class:`daskref.demo.traffic.Meter`) and
how far its memory grew (``VmHWM``). Commands come over its standard input, one line
each, answers go out as JSON; when its input ends, so does the cluster.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from daskref.demo.traffic import Meter, Traffic

#: Seconds between two looks of the child at its own connections.
_INTERVAL = 0.05


class MeasuredCluster:
    """Start a cluster in a child process; the parent's side. Blocks until it is up.

    *workers*: number of worker processes, of one thread each.

    Notes
    -----
    The cluster ends with :meth:`close`, and with this process, however it ends.
    """

    #: Of the scheduler.
    address: str
    _process: subprocess.Popen[str]

    def __init__(self, workers: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "daskref.demo.cluster", str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.address = self._answer()["address"]
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Begin to measure."""
        self._ask("start")

    def stop(self) -> tuple[Traffic, int]:
        """Return what was measured since :meth:`start`.

        Returns
        -------
        Traffic
            Bytes that the scheduler's process received and sent.
        int
            Bytes by which its memory grew, at the peak.
        """
        answer = self._ask("stop")
        return Traffic(answer["received"], answer["sent"]), answer["peak"]

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                "the cluster's process ended early, with exit status "
                f"{self._process.wait()}; its last words are above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the cluster and wait until it is gone. A second call is silent."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> MeasuredCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def serve(workers: int) -> None:
    """Run the child's side: a cluster, until standard input ends."""
    from distributed import LocalCluster

    # answers have standard output for themselves, whatever else prints there
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        answer(address=cluster.scheduler_address)
        meter, start = Meter(), _memory("VmRSS")
        while True:
            if not select.select([0], [], [], _INTERVAL)[0]:
                meter.update()
                continue
            # not through sys.stdin: its buffer would hide a second line from select
            command = os.read(0, 1024).decode().strip()
            if not command:
                return
            if command == "start":
                gc.collect()
                _reset_peak()
                meter, start = Meter(), _memory("VmRSS")
                answer()
            else:
                seen = meter.update()
                peak = max(0, _memory("VmHWM") - start)
                answer(received=seen.received, sent=seen.sent, peak=peak)


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    match = re.search(rf"^{name}:\s*(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _reset_peak() -> None:
    # where this is forbidden, the peak is that since the process started: for a fresh
    # cluster about the same
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
