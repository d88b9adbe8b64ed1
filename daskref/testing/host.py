"""One host: its processes and its link; made by a :class:`Network`."""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from daskref.annotations import override
from daskref.exceptions import NamespaceError
from daskref.testing.namespaces import PATIENCE, Keeper, execute
from daskref.testing.processes import Process, children, environment, start, wait_until

#: A hardware address that no host has.
_NOBODY = "02:00:00:00:00:00"


class HostProcess(Process):
    """A process on a host."""

    _pid: int = 0

    @property
    def pid(self) -> int:
        """Its id, as this process sees it."""
        if not self._pid:
            # popen is `nsenter`, whose only child it is
            found = children(self.popen.pid)
            if not found:
                return self.popen.pid
            self._pid = found[-1]
        return self._pid

    @property
    def output(self) -> str:
        """Its output until now."""
        return "".join(self.lines)

    def expect(self, text: str, timeout: float = 60) -> None:
        """Wait until its output contains a text."""
        wait_until(
            lambda: text in self.output or self.popen.poll() is not None,
            f"{text!r} in the output",
            timeout,
        )
        if text not in self.output:
            raise AssertionError(f"it ended without {text!r}:\n{self.output}")

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()

    @override
    def stop(self) -> None:
        super().stop()
        if self.popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.popen.stdin.close()


class Traffic(NamedTuple):
    """Bytes that crossed a link since it was made, with the headers of packets."""

    received: int
    sent: int


class End(NamedTuple):
    """One end of a link: the prefix that enters its namespace, and the device."""

    enter: tuple[str, ...]
    device: str

    def ip(self, *command: str) -> None:
        """Run ``ip`` there."""
        execute(self.enter, "ip", *command)


class Host:
    """A host; made by :meth:`Network.add`.

    Attributes
    ----------
    name
        Unique in its network.
    hostname
        The host name that its processes see.
    address, address6
        Of IPv4 and IPv6; the latter is empty where the machine has no IPv6.
    prefix
        The beginning of a command that runs on the host.
    """

    name: str
    hostname: str
    address: str
    address6: str
    prefix: tuple[str, ...]

    def __init__(
        self,
        name: str,
        hostname: str,
        keeper: Keeper,
        address: str,
        address6: str,
        boot: str,
    ) -> None:
        self.name, self.hostname, self.boot = name, hostname, boot
        self.address, self.address6 = address, address6
        self.keeper = keeper
        self.prefix = keeper.entering("mount", "net", "uts", "pid")
        self._own = End(keeper.entering("net"), "eth0")
        self._ends = [self._own]
        self._port = self._own
        self._processes: list[HostProcess] = []

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"

    @property
    def namespace(self) -> int:
        """Number of its network namespace, as ``/proc`` has it."""
        return os.stat(f"/proc/{self.keeper.pid}/ns/net").st_ino

    @property
    def shm(self) -> list[str]:
        """Names in the host's ``/dev/shm``."""
        return sorted(os.listdir(f"/proc/{self.keeper.pid}/root/dev/shm"))

    # Running

    def run(
        self,
        *command: str,
        stdin: str = "",
        env: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> str:
        """Run a command to its end; return its output. AssertionError if it fails."""
        popen = subprocess.Popen(
            [*self.prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment(), **(env or {})},
        )
        try:
            output = popen.communicate(stdin, timeout)[0]
        except BaseException:
            HostProcess(popen, "").kill()
            popen.communicate()
            raise
        if popen.returncode:
            raise AssertionError(f"exit status {popen.returncode}\n{output}")
        return output

    def call(self, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Return the result of ``func(*args)`` in a new process on the host.

        *func* is at the top of a module that can be imported; *args* pickle; *options*
        are those of :meth:`run`.
        """
        output = self.run(*_python(func, args), **options)
        # threads may write more output while the process ends
        returned = output.rpartition("returned ")[2].partition("\n")[0]
        return pickle.loads(base64.b64decode(returned))

    def start(
        self,
        *command: str,
        pattern: str,
        env: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> HostProcess:
        """Start a command; wait until its output matches a pattern with one group."""
        return self.adopt(
            start(
                *self.prefix, *command, pattern=pattern, timeout=timeout,
                env={**environment(), **(env or {})}, stdin=subprocess.PIPE,
            )
        )  # fmt: skip

    def start_call(
        self, func: Callable[..., Any], *args: Any, **options: Any
    ) -> HostProcess:
        """Call a function as :meth:`call` does; wait as :meth:`start` does."""
        return self.start(*_python(func, args), **options)

    def adopt(self, process: Process) -> HostProcess:
        """Take charge of a process that was started with :attr:`prefix`."""
        adopted = HostProcess(process.popen, process.address, process.lines)
        self._processes.append(adopted)
        return adopted

    # The link

    @property
    def traffic(self) -> Traffic:
        """The bytes that have crossed the host's link."""
        with open(f"/proc/{self.keeper.pid}/net/dev") as file:
            for line in file:
                device, _, counts = line.partition(":")
                if device.strip() == "eth0":
                    numbers = counts.split()
                    return Traffic(int(numbers[0]), int(numbers[8]))
        raise NamespaceError(f"{self} has no link")

    def shape(self, mbit: float | None = None, delay_ms: float = 0) -> None:
        """Bound the bandwidth of the link and delay packets, each way.

        Parameters
        ----------
        mbit
            Per second; ``None`` for no bound.
        delay_ms
            On top of the machine's own.
        """
        for enter, device in self._ends:
            qdisc = (*enter, "tc", "qdisc")
            with contextlib.suppress(NamespaceError):  # there is none
                execute(qdisc, "del", "dev", device, "root")
            parent = "root"
            if delay_ms:
                execute(
                    qdisc, "add", "dev", device, "root", "handle", "1:", "netem",
                    "delay", f"{delay_ms}ms", "limit", "100000",
                )  # fmt: skip
                parent = "parent 1:"
            if mbit is not None:
                # a burst holds at least one packet, of up to 64 KiB before it is cut
                burst = max(128 << 10, int(mbit * 1e6 / 8 * 0.005))
                execute(
                    qdisc, "add", "dev", device, *parent.split(), "tbf", "rate",
                    f"{mbit}mbit", "burst", str(burst), "latency", "100ms",
                )  # fmt: skip

    def cut(self) -> None:
        """Cut the link: packets vanish silently."""
        self._port.ip("link", "set", self._port.device, "down")

    def mend(self) -> None:
        """Bring the link back."""
        self._port.ip("link", "set", self._port.device, "up")

    def block(self, *others: Host, silently: bool = True) -> None:
        """Stop packets from here to other hosts, and so all connections between them.

        *silently*: whether packets vanish; otherwise their sender gets an error at
        once.
        """
        for address in _addresses(others):
            if silently:
                self._own.ip(
                    "neigh", "replace", address, "lladdr", _NOBODY, "dev", "eth0",
                    "nud", "permanent",
                )  # fmt: skip
            else:
                self._own.ip("route", "replace", "unreachable", address)

    def unblock(self, *others: Host) -> None:
        """Undo :meth:`block`."""
        for address in _addresses(others):
            for command in (
                ("neigh", "del", address, "dev", "eth0"),
                ("route", "del", "unreachable", address),
            ):
                with contextlib.suppress(NamespaceError):  # blocked the other way
                    self._own.ip(*command)

    # The end

    def die(self) -> None:
        """Lose power: the link is cut, then every process ends."""
        self.cut()
        self.keeper.kill()

    def close(self) -> None:
        """End every process and wait for it. Idempotent."""
        self.keeper.close()
        for process in self._processes:
            process.popen.wait(PATIENCE)
            process.stop()


def _addresses(hosts: tuple[Host, ...]) -> list[str]:
    return [a for host in hosts for a in (host.address, host.address6) if a]


def _python(func: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str, ...]:
    call = base64.b64encode(pickle.dumps((func, args))).decode()
    code = (
        "import base64, pickle, sys;"
        "func, args = pickle.loads(base64.b64decode(sys.argv[1]));"
        "returned = base64.b64encode(pickle.dumps(func(*args))).decode();"
        # in one piece, so that no other thread writes in between
        "sys.stdout.write('returned ' + returned + chr(10)); sys.stdout.flush()"
    )
    return (sys.executable, "-X", "faulthandler", "-uc", code, call)
