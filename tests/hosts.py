"""Hosts: namespaces of Linux with addresses and file systems of their own.

>>> with Network() as network:  # doctest: +SKIP
...     alpha, beta = network.add("alpha"), network.add("beta")
...     print(alpha.address, beta.run("ip", "route"))

All hosts hang on one switch, each by a link of its own; switch and links are in a
network namespace too, so nothing of the machine changes and runs never collide.
Every host has its own addresses, processes, host name, boot and machine id,
``/dev/shm`` and directory of temporary files; the rest of the file system is the
machine's. However the process ends that made the hosts, the kernel ends them with it.

Needs root, or user namespaces for others; see :func:`capabilities`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests import utils
from tests.namespaces import (
    HOST,
    PATIENCE,
    Keeper,
    NamespaceError,
    execute,
    temporary,
)
from tests.spaces import ENVIRONMENT, ROOT
from tests.utils import wait_until

#: A hardware address that nobody has.
_NOBODY = "02:00:00:00:00:00"

_SWITCH = """
ip link set lo up
ip link add switch type bridge mcast_snooping 0
ip link set switch up
"""

_MASQUERADE = """
table ip nat {
  chain out { type nat hook postrouting priority 100; oifname "eth0" masquerade; }
}
"""


class HostProcess(utils.Process):
    """A process on a host; its id is the one that this process sees."""

    _pid: int = 0

    @property
    def pid(self) -> int:
        if not self._pid:
            # its parent entered the namespaces, and has this one child
            found = utils.children(self.popen.pid)
            if not found:
                return self.popen.pid
            self._pid = found[-1]
        return self._pid

    @property
    def output(self) -> str:
        """What it has written until now."""
        return "".join(self.popen.output)  # type: ignore[attr-defined]

    def expect(self, text: str, timeout: float = 60) -> None:
        """Wait until it has written a text."""
        wait_until(
            lambda: text in self.output or self.popen.poll() is not None,
            f"{text!r} in the output",
            timeout,
        )
        assert text in self.output, self.output

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()

    def stop(self) -> None:
        super().stop()
        if self.popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.popen.stdin.close()


class Traffic(NamedTuple):
    """Bytes that crossed a link since it was made, with the headers of packets."""

    received: int
    sent: int


class _End(NamedTuple):
    """One end of a link: how to enter the namespace, and the device there."""

    enter: tuple[str, ...]
    device: str

    def ip(self, *command: str) -> None:
        execute(self.enter, "ip", *command)


class Host:
    """A host; made by :meth:`Network.add`.

    Attributes
    ----------
    name
        Unique in its network.
    hostname
        What its processes are told.
    address, address6
        Of IPv4 and IPv6; the latter is empty where the machine has no IPv6.
    prefix
        What to put before a command to run it on the host.
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
        self._own = _End(keeper.entering("net"), "eth0")
        self._ends = [self._own]
        self._port = self._own
        self._processes: list[HostProcess] = []

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"

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
        """Run a command to its end; return its output, fail if it does."""
        popen = subprocess.Popen(
            [*self.prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **ENVIRONMENT, **(env or {})},
        )
        try:
            output = popen.communicate(stdin, timeout)[0]
        except BaseException:
            HostProcess(popen).kill()
            popen.communicate()
            raise
        assert popen.returncode == 0, f"exit status {popen.returncode}\n{output}"
        return output

    def call(self, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of a module in a new process; return what it returns.

        Parameters
        ----------
        func
            At the top of a module that can be imported.
        *args
            Any that pickle.
        **options
            Of :meth:`run`.
        """
        output = self.run(*_python(func, args), **options)
        return pickle.loads(base64.b64decode(output.rpartition("returned ")[2]))

    def start(
        self,
        *command: str,
        pattern: str,
        env: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> HostProcess:
        """Start a command; wait until its output matches a pattern with one group."""
        return self.adopt(
            utils.start(
                *self.prefix, *command, pattern=pattern, timeout=timeout,
                env={**ENVIRONMENT, **(env or {})}, stdin=subprocess.PIPE,
            )
        )  # fmt: skip

    def start_call(
        self, func: Callable[..., Any], *args: Any, **options: Any
    ) -> HostProcess:
        """Call a function as :meth:`call` does; wait as :meth:`start` does."""
        return self.start(*_python(func, args), **options)

    def adopt(self, process: utils.Process) -> HostProcess:
        """Take charge of a process that was started with :attr:`prefix`."""
        adopted = HostProcess(process.popen, process.address)
        self._processes.append(adopted)
        return adopted

    # The link

    @property
    def traffic(self) -> Traffic:
        """What has crossed the host's link."""
        with open(f"/proc/{self.keeper.pid}/net/dev") as file:
            for line in file:
                device, _, counts = line.partition(":")
                if device.strip() == "eth0":
                    numbers = counts.split()
                    return Traffic(int(numbers[0]), int(numbers[8]))
        raise NamespaceError(f"{self} has no link")

    def shape(self, mbit: float | None = None, delay_ms: float = 0) -> None:
        """Bound the bandwidth of the link and delay what crosses it, each way.

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
        """Cut the link: packets vanish, nobody is told."""
        self._port.ip("link", "set", self._port.device, "down")

    def mend(self) -> None:
        """Bring the link back."""
        self._port.ip("link", "set", self._port.device, "up")

    def block(self, *others: Host, silently: bool = True) -> None:
        """Let no packet from here reach other hosts, and no connection come about.

        Parameters
        ----------
        *others
            Which.
        silently
            Whether packets vanish; else who sends them is told at once.
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
        """Take :meth:`block` back."""
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


class Network:
    """Hosts on one switch.

    Parameters
    ----------
    user
        Whether to make a user namespace; by default whoever is not root does.

    Raises
    ------
    NamespaceError
        With what the machine does not permit.
    """

    _hosts: dict[str, Host]

    def __init__(self, *, user: bool | None = None) -> None:
        self._hosts = {}
        self._count = 0
        self._gateways: list[Keeper] = []
        user = bool(os.geteuid()) if user is None else user
        self._switch = Keeper(_SWITCH, user=user)
        try:
            _set_sysctl(self._switch, "net/ipv6/conf/all/disable_ipv6", "0")
            self.ipv6 = True
        except NamespaceError:
            self.ipv6 = False

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def add(
        self,
        name: str,
        *,
        hostname: str | None = None,
        shm_size: str = "50%",
        beside: Host | None = None,
        nat: bool = False,
        shared: tuple[str | os.PathLike[str], ...] = (),
    ) -> Host:
        """Add a host.

        Parameters
        ----------
        name
            Unique in this network.
        hostname
            By default the name.
        shm_size
            Of its ``/dev/shm``, as ``mount`` takes it.
        beside
            The host whose boot, ``/dev/shm`` and temporary files it shares, as
            containers on one machine can.
        nat
            Whether the host is behind a router that translates addresses: it can
            open connections, nobody can open one to it. Needs nftables.
        shared
            Directories that this host sees although they are among the machine's
            temporary files; what lies elsewhere is seen anyway.
        """
        boot = beside.boot if beside else str(uuid.uuid4())
        hostname = hostname or name
        number = self._number()
        address = f"10.78.{number}.2" if nat else f"10.77.0.{number}"
        address6 = f"fd77::{number:x}" if self.ipv6 and not nat else ""
        keeper = Keeper(
            HOST, hostname, boot, address, "" if beside else shm_size, temporary(),
            *_seen(shared),
            prefix=(beside.keeper if beside else self._switch).entering("mount", "pid"),
            user=False,
        )  # fmt: skip
        keeper.user = self._switch.user
        host = Host(name, hostname, keeper, address, address6, boot)
        try:
            port = self._plug_gateway(host) if nat else self._plug(host)
        except BaseException:
            keeper.close()
            raise
        host._port = port
        host._ends.append(port)
        self._hosts[name] = host
        return host

    def _number(self) -> int:
        self._count += 1
        if self._count > 250:
            raise ValueError("a network takes 250 hosts")
        return self._count

    def _plug(self, host: Host) -> _End:
        return self._link(host.keeper, host.address, host.address6)

    def _link(self, keeper: Keeper, address: str, address6: str = "") -> _End:
        """Connect to the switch; return the switch's end."""
        port = _End(self._switch.entering("net"), f"port{address.rpartition('.')[2]}")
        _connect(port, keeper)
        port.ip("link", "set", port.device, "master", "switch", "up")
        _configure(keeper, f"{address}/24", f"{address6}/64" if address6 else "")
        return port

    def _plug_gateway(self, host: Host) -> _End:
        """Connect to a router of its own; return the router's end."""
        gateway = Keeper("", prefix=self._switch.entering("mount", "pid"))
        gateway.user = self._switch.user
        self._gateways.append(gateway)
        self._link(gateway, f"10.77.0.{self._number()}")
        inner = _End(gateway.entering("net"), "inside")
        _connect(inner, host.keeper)
        outside = host.address.rpartition(".")[0]
        inner.ip("address", "add", f"{outside}.1/24", "dev", "inside")
        inner.ip("link", "set", "inside", "up")
        _configure(host.keeper, f"{host.address}/24", gateway=f"{outside}.1")
        _set_sysctl(gateway, "net/ipv4/ip_forward", "1")
        execute(inner.enter, "nft", "-f", "-", stdin=_MASQUERADE)
        return inner

    def close(self) -> None:
        """End all hosts. Idempotent."""
        self._switch.close()
        for keeper in self._gateways:
            keeper.close()
        for host in self._hosts.values():
            host.close()


def _connect(end: _End, keeper: Keeper) -> None:
    """Lay a link from *end*, which it makes, to a new device ``eth0``."""
    end.ip(
        "link", "add", end.device, "type", "veth",
        "peer", "name", "eth0", "netns", str(keeper.pid),
    )  # fmt: skip


def _configure(
    keeper: Keeper, address: str, address6: str = "", gateway: str = ""
) -> None:
    own = _End(keeper.entering("net"), "eth0")
    own.ip("link", "set", "lo", "up")
    own.ip("address", "add", address, "dev", "eth0")
    if address6:
        own.ip("address", "add", address6, "dev", "eth0", "nodad")
        # else the address goes when the link does
        _set_sysctl(keeper, "net/ipv6/conf/all/keep_addr_on_down", "1")
    own.ip("link", "set", "eth0", "up")
    # Dask asks by which address the internet would be reached
    via = ("via", gateway) if gateway else ()
    own.ip("route", "add", "default", *via, "dev", "eth0")


def _set_sysctl(keeper: Keeper, name: str, value: str) -> None:
    """Set what belongs to the keeper's network namespace."""
    enter = keeper.entering("mount", "net", "pid")
    execute(enter, "sh", "-ec", 'echo "$1" >"/proc/sys/$0"', name, value)


def _addresses(hosts: tuple[Host, ...]) -> list[str]:
    return [a for host in hosts for a in (host.address, host.address6) if a]


def _seen(shared: tuple[str | os.PathLike[str], ...]) -> list[str]:
    """Return the directories to keep among the temporary files."""
    needed = [ROOT, sys.prefix, sys.base_prefix, *shared]
    paths = sorted({os.path.realpath(path) for path in needed})
    return [path for path in paths if Path(temporary()) in Path(path).parents]


def _python(func: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str, ...]:
    call = base64.b64encode(pickle.dumps((func, args))).decode()
    code = (
        "import base64, pickle, sys;"
        "func, args = pickle.loads(base64.b64decode(sys.argv[1]));"
        "returned = base64.b64encode(pickle.dumps(func(*args))).decode();"
        "print('returned', returned, flush=True)"
    )
    return (sys.executable, "-X", "faulthandler", "-uc", code, call)


@dataclass(frozen=True)
class Capabilities:
    """What the machine permits."""

    #: Why there can be no hosts; empty if there can.
    reason: str = ""
    ipv6: bool = False
    #: Bounds on bandwidth (tc's tbf).
    rate: bool = False
    #: Delays (tc's netem).
    delay: bool = False
    #: Translation of addresses (nftables).
    nat: bool = False


@cache
def capabilities() -> Capabilities:
    """Try out, once, what the machine permits."""

    def permitted(func: Callable[..., Any], *args: Any, **options: Any) -> bool:
        try:
            func(*args, **options)
        except NamespaceError:
            return False
        return True

    try:
        with Network() as network:
            host = network.add("probe")
            return Capabilities(
                ipv6=network.ipv6,
                rate=permitted(host.shape, mbit=100),
                delay=permitted(host.shape, delay_ms=1),
                nat=permitted(network.add, "nat", nat=True),
            )
    except NamespaceError as exc:
        return Capabilities(reason=str(exc))


def require_hosts(*needs: str) -> None:
    """Report as a missing part that there can be no hosts, or none that can this.

    Parameters
    ----------
    *needs
        Names of fields of :class:`Capabilities`.
    """
    __tracebackhide__ = True
    from tests.parts import require  # as in tests.spaces

    found = capabilities()
    require(
        not found.reason,
        f"hosts in namespaces ({found.reason}): run as root, or permit user namespaces "
        "(kernel.unprivileged_userns_clone, user.max_user_namespaces); needs the "
        "packages iproute2 and util-linux",
    )
    for need in needs:
        require(
            getattr(found, need),
            f"hosts with {need}: the kernel lacks it, or a package is missing "
            "(iproute2, nftables)",
        )
