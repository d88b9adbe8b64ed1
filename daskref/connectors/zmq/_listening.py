"""Where a server listens, and the address that it advertises."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

from daskref.exceptions import ConfigError

_SIOCGIFADDR = 0x8915
#: Connections that the server has not accepted yet.
_BACKLOG = 128
#: Addresses for documentation (RFC 5737, RFC 3849): nothing is sent there.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def outward() -> str:
    """Return the address through which this host reaches others; else loopback."""
    for family, elsewhere in _ELSEWHERE.items():
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))  # a datagram socket sends nothing
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"


def resolve(interface: str) -> str:
    """Return the address of an interface, given its name (``eth0``) or an address.

    Raises ConfigError if there is none.
    """
    interface = interface.strip("[]")
    try:
        return str(ipaddress.ip_address(interface))
    except ValueError:
        pass
    named = [name for _, name in socket.if_nameindex()]
    if interface in named:
        for address in _addresses(interface):
            return address
    else:
        try:
            return str(socket.getaddrinfo(interface, None)[0][4][0])
        except OSError:
            pass
    raise ConfigError(
        "zmq: interface",
        interface,
        f"an address of this host, or an interface that has one: {', '.join(named)}",
    )


def _addresses(interface: str) -> Iterable[str]:
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            yield socket.inet_ntoa(found[20:24])
        except OSError:
            pass  # it has IPv6 only
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return
    for digits, _, _, scope, _, name in lines:
        if name == interface and scope != "20":  # not link-local
            yield str(ipaddress.ip_address(bytes.fromhex(digits)))


def listen(address: str, ports: range) -> socket.socket:
    """Return a socket that listens on the first free port.

    Raises OSError if none is free, or the address is not this host's.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in ports:
            try:
                listener.bind((address, port))
                # A peer that disconnects before `accept` must not block the server.
                listener.setblocking(False)
                listener.listen(_BACKLOG)
                return listener
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or port == ports[-1]:
                    raise
        raise OSError(errno.EADDRINUSE, "no port")
    except BaseException:
        listener.close()
        raise


def prepare(there: socket.socket, heartbeat: float = 0.0) -> None:
    """Set the options of a connection.

    *heartbeat*: seconds after which the kernel probes a silent peer.
    """
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if heartbeat:
        seconds = max(1, int(heartbeat))
        there.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def shut(there: socket.socket) -> None:
    """End a connection that another thread uses, and wake the thread. Idempotent."""
    with suppress(OSError):
        # Not the method of an encrypted socket, which would go on in the clear.
        socket.socket.shutdown(there, socket.SHUT_RDWR)


def endpoint(address: str, port: int) -> str:
    """Return ``tcp://address:port``, with brackets around an IPv6 address.

    Examples
    --------
    >>> endpoint("::1", 5000)
    'tcp://[::1]:5000'
    """
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def split_endpoint(text: str) -> tuple[str, int]:
    """Return address and port of an endpoint.

    Raises ConfigError if it is malformed.
    """
    scheme, _, place = text.partition("://")
    address, _, port = place.rpartition(":")
    if scheme != "tcp" or not address or not port.isdecimal():
        raise ConfigError("zmq: endpoint", text, "tcp://address:port")
    return address.strip("[]"), int(port)
