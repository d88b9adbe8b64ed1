"""Redis servers of the tests, on loopback: each ends by the process id it got."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from tests.support.requirements import require

TIMEOUT = 20.0
#: A password that may be seen nowhere.
SECRET = "hunter2-is-secret"


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG: a test run that is killed leaves no server behind
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _free_port() -> int:
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port: int = found.getsockname()[1]
        if port < 2**16 - 10_000:  # a node of a cluster also takes port + 10,000
            return port


class RedisServer:
    """A server of the test's own.

    Parameters
    ----------
    **options
        As its configuration file has them, with underscores.
    """

    def __init__(self, *, tls: Certificates | None = None, **options: Any) -> None:
        require(shutil.which("redis-server"), "redis-server (Debian: redis-server)")
        self.directory = Path(tempfile.mkdtemp(prefix="daskref-redis-"))
        self.tls = tls
        self._options = {"save": "", "appendonly": "no", **options}
        self.port = 0
        self.popen: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Without credentials."""
        return f"redis{'s' if self.tls else ''}://127.0.0.1:{self.port}/0"

    @property
    def arguments(self) -> dict[str, Any]:
        """For a connector."""
        return {"url": self.url, **({"ssl_ca_certs": self.tls.ca} if self.tls else {})}

    @property
    def unix(self) -> str:
        return f"unix://{self.directory}/socket"

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    def start(self) -> None:
        """Start it, on the same port as before."""
        for _ in range(10):
            port = self.port or _free_port()
            if self._started(port):
                self.port = port
                return
        raise AssertionError(f"redis-server does not start: {self.log()}")

    def _started(self, port: int) -> bool:
        options = {
            **self._options,
            "port": 0 if self.tls else port,
            "bind": "127.0.0.1",
            "dir": self.directory,
            "unixsocket": self.directory / "socket",
            "logfile": self.directory / "log",
        }
        if self.tls:
            options |= {
                "tls_port": port,
                "tls_ca_cert_file": self.tls.ca,
                "tls_cert_file": self.tls.certificate,
                "tls_key_file": self.tls.key,
                "tls_auth_clients": "no",
            }
        arguments: list[str] = []
        for name, value in options.items():
            values = value if isinstance(value, list) else [value]
            for each in values:
                words = str(each).split(" ") if " " in str(each) else [str(each)]
                arguments += [f"--{name.replace('_', '-')}", *words]
        self.popen = subprocess.Popen(
            ["redis-server", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            if self.popen.poll() is not None:
                return False  # somebody has taken the port meanwhile
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.directory / "socket"))
                return True
            time.sleep(0.01)
        return False

    def ask(self, *command: str, password: str | None = None) -> Any:
        """Run a command as the administrator does."""
        with redis.Redis(
            unix_socket_path=f"{self.directory}/socket",
            password=password,
            decode_responses=True,
        ) as client:
            return client.execute_command(*command)

    def names(self, password: str | None = None) -> set[str]:
        """Return all keys; none if it does not run."""
        try:
            return set(self.ask("KEYS", "*", password=password))
        except redis.ConnectionError:
            return set()

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.directory / "log").read_text(errors="replace")
        return ""

    def kill(self) -> None:
        """SIGKILL it: what it had is gone."""
        if self.popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.popen.pid, signal.SIGKILL)
            self.popen.wait(TIMEOUT)

    @contextlib.contextmanager
    def stopped(self) -> Any:
        """Let it neither answer nor end, meanwhile."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class Certificates:
    """A private authority, and a certificate of it for loopback."""

    def __init__(self, directory: Path) -> None:
        require(shutil.which("openssl"), "openssl (Debian: openssl)")
        self.directory = directory
        self.ca, self.key = str(directory / "ca.pem"), str(directory / "key.pem")
        self.certificate = str(directory / "certificate.pem")
        ca_key, request = str(directory / "ca-key.pem"), str(directory / "request.pem")
        names = directory / "names"
        names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        new = ["req", "-newkey", "rsa:2048", "-nodes"]
        self._openssl(
            *new, "-x509", "-days", "2", "-subj", "/CN=test authority",
            "-keyout", ca_key, "-out", self.ca,
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        self._openssl(
            *new, "-subj", "/CN=localhost", "-keyout", self.key, "-out", request
        )
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key,
            "-CAcreateserial", "-days", "2", "-extfile", str(names),
            "-out", self.certificate,
        )  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments],
            check=True,
            capture_output=True,
            timeout=60,
            cwd=self.directory,
        )


def with_user(server: RedisServer, user: str) -> str:
    return server.url.replace("//", f"//{user}@")


def pattern(nbytes: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(nbytes))


def objects(server: RedisServer) -> set[str]:
    """Return the keys of objects and of their chunks."""
    return {key for key in server.names() if "-" in key.rpartition(":")[2]}
