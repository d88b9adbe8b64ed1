"""Hosts: namespaces of Linux with addresses and file systems of their own.

>>> with Network() as network:  # doctest: +SKIP
...     alpha, beta = network.add("alpha"), network.add("beta")
...     print(alpha.address, beta.run("ip", "route"))

All hosts are on one switch, each by a link of its own. Switch and links are in a
network namespace, too, so nothing of the machine changes and runs never collide. Every
host has its own addresses, processes, host name, boot and machine id, ``/dev/shm`` and
directory of temporary files; it shares the rest of the machine's file system. However
the process that made the hosts ends, the kernel ends them with it.

Needs root, or user namespaces for others; see :func:`capabilities`.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from daskref.exceptions import NamespaceError
from daskref.testing.host import End, Host
from daskref.testing.namespaces import HOST, Keeper, execute, temporary
from daskref.testing.processes import import_paths

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


class Network:
    """Hosts on one switch.

    Parameters
    ----------
    user
        Whether to make a user namespace; default: unless this process is root.

    Raises
    ------
    NamespaceError
        If the machine does not permit it; says what.
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

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

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
            A host whose boot, ``/dev/shm`` and temporary files the new one shares, as
            containers on one machine can.
        nat
            Whether the host is behind a router that translates addresses: it can
            open connections, others can open none to it. Needs nftables.
        shared
            Directories among the machine's temporary files that this host sees; it sees
            directories elsewhere anyway.
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
            if nat:
                port = self._plug_gateway(host)
            else:
                port = self._link(keeper, address, address6)
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

    def _link(self, keeper: Keeper, address: str, address6: str = "") -> End:
        """Connect to the switch; return the switch's end."""
        port = End(self._switch.entering("net"), f"port{address.rpartition('.')[2]}")
        _connect(port, keeper)
        port.ip("link", "set", port.device, "master", "switch", "up")
        _configure(keeper, f"{address}/24", f"{address6}/64" if address6 else "")
        return port

    def _plug_gateway(self, host: Host) -> End:
        """Connect to a router of its own; return the router's end."""
        gateway = Keeper("", prefix=self._switch.entering("mount", "pid"))
        gateway.user = self._switch.user
        self._gateways.append(gateway)
        self._link(gateway, f"10.77.0.{self._number()}")
        inner = End(gateway.entering("net"), "inside")
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


def _connect(end: End, keeper: Keeper) -> None:
    """Lay a link from *end*, which it makes, to a new device ``eth0``."""
    end.ip(
        "link", "add", end.device, "type", "veth",
        "peer", "name", "eth0", "netns", str(keeper.pid),
    )  # fmt: skip


def _configure(
    keeper: Keeper, address: str, address6: str = "", gateway: str = ""
) -> None:
    own = End(keeper.entering("net"), "eth0")
    own.ip("link", "set", "lo", "up")
    own.ip("address", "add", address, "dev", "eth0")
    if address6:
        own.ip("address", "add", address6, "dev", "eth0", "nodad")
        # else the address goes when the link does
        _set_sysctl(keeper, "net/ipv6/conf/all/keep_addr_on_down", "1")
    own.ip("link", "set", "eth0", "up")
    # Dask looks for the address that reaches the internet
    via = ("via", gateway) if gateway else ()
    own.ip("route", "add", "default", *via, "dev", "eth0")


def _set_sysctl(keeper: Keeper, name: str, value: str) -> None:
    """Set a parameter of the keeper's network namespace."""
    enter = keeper.entering("mount", "net", "pid")
    execute(enter, "sh", "-ec", 'echo "$1" >"/proc/sys/$0"', name, value)


def _seen(shared: tuple[str | os.PathLike[str], ...]) -> list[str]:
    """Return the directories to keep among the temporary files."""
    needed = [*import_paths(), sys.prefix, sys.base_prefix, *shared]
    paths = sorted({os.path.realpath(path) for path in needed})
    return [path for path in paths if Path(temporary()) in Path(path).parents]


@dataclass(frozen=True)
class Capabilities:
    """The namespaces and network features that the machine permits."""

    #: The reason why there can be no hosts; empty if there can.
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
    """Find out, once, what the machine permits."""

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
