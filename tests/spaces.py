"""What tests need of namespaces; processes with a ``/dev/shm`` of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

from daskref.testing.hosts import capabilities
from daskref.testing.processes import environment
from tests.parts import require

#: Environment of programs that import the tests.
ENVIRONMENT = environment()


def own_shm(size: str = "50%") -> tuple[str, ...]:
    """Return what to put before a command, so that it has a ``/dev/shm`` of its own."""
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    return ("unshare", "-m", "sh", "-c", mount, "sh")


@cache
def _permitted() -> bool:
    try:
        done = subprocess.run([*own_shm("1m"), "true"], capture_output=True)
    except OSError:
        return False
    return not done.returncode


def require_namespaces() -> None:
    """Report as a missing part that mount namespaces cannot be made here."""
    require(_permitted(), "mount namespaces (unshare -m): run the tests as root")


def run_case(module: str, case: str, *args: Any, size: str = "50%") -> Any:
    """Run ``module.case(*args)`` in a process with its own ``/dev/shm``.

    Parameters
    ----------
    module, case
        Name of a module, and of a function in it.
    *args
        As JSON has them.
    size
        Of the file system.

    Returns
    -------
    object
        What the function returned, as JSON has it.
    """
    call = f"{module}.{case}(*json.loads({json.dumps(args)!r}))"
    code = f"import json, {module}; print('returned', json.dumps({call}))"
    done = subprocess.run(
        [*own_shm(size), sys.executable, "-X", "faulthandler", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=100,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}"
    returned = [line for line in done.stdout.splitlines() if "returned " in line]
    assert returned, done.stdout
    return json.loads(returned[-1].partition("returned ")[2])


def require_hosts(*needs: str) -> None:
    """Report as a missing part that there can be no hosts, or none that can this.

    Parameters
    ----------
    *needs
        Names of fields of :class:`Capabilities`.
    """
    __tracebackhide__ = True
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
