"""The hosts of a session, and the processes there."""

from __future__ import annotations

from dataclasses import dataclass, field

from daskref.connectors.base import Key


@dataclass
class Process:
    """A process that takes part in a session."""

    host: str
    #: ``"worker"``, ``"client"`` or ``"scheduler"``.
    role: str
    #: Where it serves; ``None`` if it does not.
    endpoint: str | None = None


@dataclass
class Host:
    """A host with at least one process."""

    hostname: str
    processes: dict[str, Process] = field(default_factory=dict)
    #: Objects that it has a copy of: an index of the table of objects.
    keys: dict[Key, None] = field(default_factory=dict)
    #: Bytes that others fetched from it, and it from others; objects that it fetched.
    sent: int = 0
    received: int = 0
    fetched: int = 0


@dataclass(eq=False, repr=False)
class Hosts:
    """The hosts and processes of a session."""

    #: Identity -> host with at least one process.
    hosts: dict[str, Host] = field(default_factory=dict)
    #: Worker address or client id -> process.
    processes: dict[str, Process] = field(default_factory=dict)

    def join(self, name: str, process: Process, hostname: str) -> Host:
        """Record a process, or its new endpoint; return its host."""
        host = self.hosts.setdefault(process.host, Host(hostname))
        host.processes[name] = self.processes[name] = process
        return host

    def leave(self, name: str) -> Host | None:
        """Forget a process; return its host if it was the last one there."""
        process = self.processes.pop(name)
        host = self.hosts[process.host]
        del host.processes[name]
        return None if host.processes else self.hosts.pop(process.host)

    def moved(self, source: str, host: str, nbytes: int) -> None:
        """Record that a host has fetched an object from another one."""
        self.hosts[host].received += nbytes
        self.hosts[host].fetched += 1
        if source in self.hosts:  # else it has left meanwhile
            self.hosts[source].sent += nbytes

    def host_of(self, name: str) -> str | None:
        """Return the identity of a process's host; ``None`` if it never joined."""
        process = self.processes.get(name)
        return None if process is None else process.host

    def on(self, host: str, role: str | None = None) -> tuple[str, ...]:
        """Return a host's processes, those that serve first; *role*: only these."""
        known = self.hosts.get(host)
        if known is None:
            return ()
        found = [
            (each.endpoint is None, name)
            for name, each in known.processes.items()
            if role in (None, each.role)
        ]
        return tuple(name for _, name in sorted(found, key=lambda each: each[0]))

    def endpoints(self, host: str) -> list[str]:
        """Return the endpoints of a host's processes."""
        known = self.hosts.get(host)
        processes = () if known is None else known.processes.values()
        return [each.endpoint for each in processes if each.endpoint is not None]

    def keys(self, host: str) -> dict[Key, None]:
        """Return the keys of a host's copies."""
        known = self.hosts.get(host)
        return {} if known is None else known.keys

    def clients(self) -> list[str]:
        """Return the clients that have joined."""
        return [name for name, each in self.processes.items() if each.role == "client"]
