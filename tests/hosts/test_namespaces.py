"""Hosts in namespaces: apart from each other, measured, and gone in the end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daskref.exceptions import NamespaceError
from daskref.testing.host import Host, HostProcess
from daskref.testing.hosts import Network, capabilities
from daskref.testing.namespaces import Keeper, execute
from tests.support.common import start, wait_until
from tests.support.namespaces import ENVIRONMENT, require_hosts

MB = 1_000_000


@pytest.fixture
def network() -> Iterator[Network]:
    require_hosts()
    with Network() as network:
        yield network


@pytest.fixture
def pair(network: Network) -> tuple[Host, Host]:
    return network.add("alpha"), network.add("beta")


# Programs of the hosts


def serve(address: str, connections: int = 1) -> None:
    """Take connections one by one; confirm the bytes of each when it ends."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        print("listening", server.getsockname()[1], flush=True)
        for _ in range(connections):
            connection, peer = server.accept()
            with connection:
                print("peer", peer[0], flush=True)
                count = 0
                while data := connection.recv(1 << 20):
                    count += len(data)
                connection.sendall(b"%d\n" % count)


def send(address: str, port: int, nbytes: int) -> tuple[int, float]:
    """Return the bytes that were confirmed, and the seconds it took."""
    begin = time.perf_counter()
    with socket.create_connection((address, port), 20) as connection:
        connection.sendall(bytes(nbytes))
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as answer:
            return int(answer.readline()), time.perf_counter() - begin


def try_to_connect(address: str, port: int, timeout: float) -> str:
    """Return what became of it: the error's class, or nothing."""
    try:
        with socket.create_connection((address, port), timeout):
            return ""
    except OSError as exc:
        return type(exc).__name__


def start_server(host: Host, connections: int = 1, ipv6: bool = False) -> HostProcess:
    address = host.address6 if ipv6 else host.address
    pattern = r"listening (\d+)"
    return host.start_call(serve, address, connections, pattern=pattern)


def write_and_list(directory: str, name: str) -> list[str]:
    Path(directory, name).touch()
    return sorted(os.listdir(directory))


def boot_and_name() -> tuple[str, str, str]:
    name = socket.gethostname()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return boot, name, socket.gethostbyname(name)


def process_ids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def fail() -> None:
    raise LookupError("this is said")


class TestApart:
    def test_addresses(self, pair: tuple[Host, Host]) -> None:
        alpha, beta = pair
        assert alpha.address != beta.address
        for host in pair:
            shown = host.run("ip", "-o", "address", "show", "dev", "eth0")
            assert f"{host.address}/" in shown
            assert f"{host.address6}/" in shown
            assert len(host.run("ip", "-o", "link").splitlines()) == 2  # and loopback

    def test_loopback(self, pair: tuple[Host, Host]) -> None:
        alpha, beta = pair
        server = alpha.start_call(serve, "127.0.0.1", pattern=r"listening (\d+)")
        port = int(server.address)
        refused = "ConnectionRefusedError"
        assert beta.call(try_to_connect, "127.0.0.1", port, 5) == refused
        assert beta.call(try_to_connect, alpha.address, port, 5) == refused
        assert alpha.call(try_to_connect, "127.0.0.1", port, 5) == ""

    def test_shared_memory_and_temporary_files(self, pair: tuple[Host, Host]) -> None:
        outside = set(os.listdir("/dev/shm"))
        for host in pair:
            name = f"of-{host.name}"
            assert host.call(write_and_list, "/dev/shm", name) == [name] == host.shm
            assert name in host.call(write_and_list, "/tmp", name)
        assert not {"of-alpha", "of-beta"} & set(os.listdir("/tmp"))
        assert not {"of-alpha", "of-beta"} & (set(os.listdir("/dev/shm")) - outside)
        found = pair[1].run("ls", "/tmp")
        assert "of-beta" in found
        assert "of-alpha" not in found

    def test_size_of_shared_memory(self, network: Network) -> None:
        small = network.add("small", shm_size="4m")
        shown = small.run("df", "--output=size", "-B1", "/dev/shm")
        assert int(shown.split()[1]) == 4 << 20

    def test_names_and_boots(self, network: Network) -> None:
        first = network.add("first", hostname="twin")
        second = network.add("second", hostname="twin")
        boots = set()
        for host in (first, second):
            boot, name, address = host.call(boot_and_name)
            assert (name, address) == ("twin", host.address)
            boots.add(boot)
        assert len(boots) == 2
        assert socket.gethostname() != "twin"

    def test_containers_that_share_memory(self, network: Network) -> None:
        first = network.add("first", shm_size="8m")
        second = network.add("second", beside=first)
        assert second.call(write_and_list, "/dev/shm", "theirs") == ["theirs"]
        assert first.shm == second.shm == ["theirs"]
        boots = [host.call(boot_and_name) for host in (first, second)]
        assert boots[0][0] == boots[1][0]
        assert boots[0][1:] != boots[1][1:]
        assert first.address != second.address

    def test_shared_directories(self, network: Network, tmp_path: Path) -> None:
        first = network.add("first", shared=(tmp_path,))
        second = network.add("second", shared=(tmp_path,))
        first.call(write_and_list, str(tmp_path), "a")
        assert second.call(write_and_list, str(tmp_path), "b") == ["a", "b"]
        assert {"a", "b"} <= set(os.listdir(tmp_path))

    def test_processes(self, pair: tuple[Host, Host]) -> None:
        alpha, _ = pair
        server = start_server(alpha)
        assert Path(f"/proc/{server.pid}/ns/net").stat().st_ino == (
            Path(f"/proc/{alpha.keeper.pid}/ns/net").stat().st_ino
        )
        # the first process, the one that counts, and the server
        assert [len(host.call(process_ids)) for host in pair] == [3, 2]
        server.kill()
        assert not Path(f"/proc/{server.pid}").exists()

    def test_what_fails_is_told(self, pair: tuple[Host, Host]) -> None:
        with pytest.raises(AssertionError, match="LookupError: this is said"):
            pair[0].call(fail)

    def test_what_takes_too_long_is_ended(self, pair: tuple[Host, Host]) -> None:
        with pytest.raises(subprocess.TimeoutExpired):
            pair[0].run("sleep", "1000", timeout=0.3)
        assert len(pair[0].call(process_ids)) == 2


class TestLinks:
    @pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
    def test_bytes_are_counted_where_they_cross(
        self, network: Network, ipv6: bool
    ) -> None:
        if ipv6:
            require_hosts("ipv6")
        hosts = [network.add(name) for name in ("alpha", "beta", "other")]
        alpha, beta, _ = hosts
        server = start_server(beta, ipv6=ipv6)
        address = beta.address6 if ipv6 else beta.address
        before = [host.traffic for host in hosts]
        assert alpha.call(send, address, int(server.address), 10 * MB)[0] == 10 * MB
        sent, received, aside = (
            (now.sent - then.sent, now.received - then.received)
            for now, then in zip([h.traffic for h in hosts], before, strict=True)
        )
        # headers are 5 % of packets that are not joined
        assert 10 * MB <= sent[0] < 11 * MB
        assert 10 * MB <= received[1] < 11 * MB
        for count in (sent[1], received[0], *aside):
            assert count < MB

    def test_cut_and_mended(self, pair: tuple[Host, Host]) -> None:
        alpha, beta = pair
        server = start_server(beta)
        port = int(server.address)
        sender = alpha.start_call(
            send_when_told, beta.address, port, pattern="(connected)"
        )
        beta.cut()
        before = beta.traffic
        assert alpha.call(try_to_connect, beta.address, port, 0.3) == "TimeoutError"
        sender.tell("go")
        # retransmitted for as long as it takes
        sender.expect("sending")
        assert beta.traffic.received == before.received
        beta.mend()
        sender.expect("confirmed 1000000")

    def test_shaped(self, pair: tuple[Host, Host]) -> None:
        require_hosts("rate")
        alpha, beta = pair
        port = int(start_server(beta, 4).address)

        def seconds() -> float:
            return float(alpha.call(send, beta.address, port, 2 * MB)[1])

        free = seconds()
        beta.shape(mbit=20)
        received = seconds()
        beta.shape()
        alpha.shape(mbit=20)
        sent = seconds()
        alpha.shape()
        # 0.8 s against some milliseconds
        assert min(received, sent) > 3 * min(free, seconds())

    def test_delayed(self, pair: tuple[Host, Host]) -> None:
        if not capabilities().delay:
            pytest.skip("the kernel cannot delay packets (netem)")
        alpha, beta = pair
        port = int(start_server(beta, 2).address)
        free = alpha.call(send, beta.address, port, 1)[1]
        beta.shape(delay_ms=200, mbit=1000)
        assert alpha.call(send, beta.address, port, 1)[1] > 3 * free

    @pytest.mark.parametrize("silently", [False, True])
    def test_blocked(self, network: Network, silently: bool) -> None:
        alpha, beta, other = (network.add(name) for name in ("alpha", "beta", "other"))
        ports = {host: int(start_server(host, 9).address) for host in (beta, other)}
        home = int(start_server(alpha, 9).address)
        alpha.block(beta, silently=silently)
        became = alpha.call(try_to_connect, beta.address, ports[beta], 0.3)
        assert became == ("TimeoutError" if silently else "OSError")
        assert beta.call(try_to_connect, alpha.address, home, 0.3) == "TimeoutError"
        assert alpha.call(try_to_connect, other.address, ports[other], 5) == ""
        alpha.unblock(beta)
        assert alpha.call(try_to_connect, beta.address, ports[beta], 5) == ""
        assert beta.call(try_to_connect, alpha.address, home, 5) == ""

    def test_behind_a_router_that_translates(self, network: Network) -> None:
        require_hosts("nat")
        outside, inside = network.add("outside"), network.add("inside", nat=True)
        server = start_server(outside)
        count, _ = inside.call(send, outside.address, int(server.address), MB)
        assert count == MB
        server.expect("peer 10.77.0.")  # the router's address
        assert inside.traffic.sent > MB
        port = int(start_server(inside).address)
        assert outside.call(try_to_connect, inside.address, port, 0.3)
        inside.cut()
        port = int(start_server(outside).address)
        assert inside.call(try_to_connect, outside.address, port, 0.3)
        inside.mend()
        assert inside.call(try_to_connect, outside.address, port, 5) == ""


def send_when_told(address: str, port: int) -> None:
    with socket.create_connection((address, port), 20) as connection:
        print("connected", flush=True)
        input()
        print("sending", flush=True)
        connection.sendall(bytes(MB))
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as answer:
            print("confirmed", answer.readline(), flush=True)


def namespaces(pids: list[int]) -> set[tuple[str, int]]:
    """Return the network and mount namespaces of processes."""
    return {
        (kind, os.stat(f"/proc/{pid}/ns/{kind}").st_ino)
        for pid in pids
        for kind in ("net", "mnt", "pid")
    }


def in_use(wanted: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return those that any process of the machine is in."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found |= namespaces([int(pid)])
    return wanted & found


def run_and_hang() -> None:
    """Make hosts and processes on them, tell their ids, and wait for ever."""
    network = Network()
    first, second = network.add("first"), network.add("second")
    pids = [network._switch.pid, first.keeper.pid, second.keeper.pid]
    for host in (first, second):
        shell = "sleep 1000 & setsid sleep 1000 & echo started $$; wait"
        pids.append(host.start("sh", "-c", shell, pattern=r"started (\d+)").pid)
    print("made", *pids, flush=True)
    signal.pause()


class TestTheEnd:
    def test_after_sigkill(self) -> None:
        require_hosts()
        process = start(
            sys.executable, "-c",
            "from tests.hosts.test_namespaces import *; run_and_hang()",
            pattern="made (.*)", env=ENVIRONMENT,
        )  # fmt: skip
        pids = [int(pid) for pid in process.address.split()]
        assert len(pids) == 5
        used = namespaces(pids)
        assert len(used) == 9
        assert in_use(used) == used
        os.kill(process.pid, signal.SIGKILL)
        process.popen.wait(10)
        wait_until(lambda: not in_use(used), "namespaces gone")
        process.stop()

    def test_after_a_failure(self) -> None:
        require_hosts()
        used = set()

        def fail_inside() -> None:
            with Network() as network:
                host = network.add("host")
                server = start_server(host)
                used.update(namespaces([host.keeper.pid, server.pid]))
                raise LookupError

        with pytest.raises(LookupError):
            fail_inside()
        assert used
        assert not in_use(used)

    def test_one_host_dies(self, pair: tuple[Host, Host]) -> None:
        alpha, beta = pair
        servers = start_server(alpha), start_server(beta, 2)
        used = namespaces([alpha.keeper.pid])
        alpha.die()
        assert servers[0].popen.wait(10)
        wait_until(lambda: not in_use(used), "namespaces gone")
        assert not alpha.keeper.alive
        port = int(servers[1].address)
        assert beta.call(try_to_connect, beta.address, port, 5) == ""
        alpha.close()

    def test_two_networks_do_not_collide(self) -> None:
        require_hosts()
        with Network() as one, Network() as two:
            first, second = one.add("same"), two.add("same")
            assert first.address == second.address
            server = start_server(first)
            port = int(server.address)
            refused = "ConnectionRefusedError"
            assert second.call(try_to_connect, first.address, port, 5) == refused
            assert first.call(try_to_connect, first.address, port, 5) == ""

    def test_closing_twice_is_silent(self) -> None:
        require_hosts()
        network = Network()
        network.add("host")
        network.close()
        network.close()


class TestUserNamespace:
    """Whoever is not root has hosts too; root can try that out."""

    def test_everything(self, tmp_path: Path) -> None:
        require_hosts()
        try:
            network = Network(user=True)
        except NamespaceError as exc:
            if os.geteuid():
                raise
            # root's own namespaces do all that the tests need
            pytest.skip(f"no user namespaces: {exc}")
        with network:
            alpha = network.add("alpha", hostname="one", shared=(tmp_path,))
            beta = network.add("beta", beside=alpha)
            assert alpha.call(boot_and_name)[1:] == ("one", alpha.address)
            beta.call(write_and_list, str(tmp_path), "seen")
            assert os.listdir(tmp_path) == ["seen"]
            beta.call(write_and_list, "/dev/shm", "theirs")
            assert alpha.shm == ["theirs"]
            server = start_server(beta, 3)
            port = int(server.address)
            if capabilities().rate:
                beta.shape(mbit=1000)
            assert alpha.call(send, beta.address, port, MB)[0] == MB
            # with headers, and with what a bounded link has dropped and gets again
            assert MB <= beta.traffic.received < 1.5 * MB
            alpha.block(beta)
            assert alpha.call(try_to_connect, beta.address, port, 0.3)
            alpha.unblock(beta)
            if capabilities().nat:
                inside = network.add("inside", nat=True)
                assert inside.call(send, beta.address, port, MB)[0] == MB
            used = namespaces([alpha.keeper.pid, beta.keeper.pid, server.pid])
        assert not in_use(used)


def test_pytest_is_not_needed() -> None:
    code = "import sys; sys.modules['pytest'] = None; import daskref.testing.clusters"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, **ENVIRONMENT}
    )


class TestWhatIsNotPermitted:
    def test_a_script_that_fails(self) -> None:
        require_hosts()
        with pytest.raises(NamespaceError, match="No such file"):
            Keeper("cat /no/such/file", user=bool(os.geteuid()))

    def test_a_program_that_is_missing(self) -> None:
        with pytest.raises(NamespaceError, match="no-such-program: No such file"):
            execute((), "no-such-program")

    def test_the_reason_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CI", raising=False)
        capabilities.cache_clear()
        try:
            with pytest.raises(pytest.skip.Exception, match="unshare: No such file"):
                require_hosts()
        finally:
            capabilities.cache_clear()
