"""The keys of a session show nowhere but in the memory of its processes."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskref
from daskref.connectors.zmq._keys import Keys
from daskref.proxy import get_factory
from tests.support.common import Process, children, large, processes, session_of

pytestmark = pytest.mark.slow

#: All that daskref and Dask log.
LOUD = {"DASK_LOGGING__DASKREF": "debug", "DASK_LOGGING__DISTRIBUTED": "debug"}


def forms(secrets: dict[str, dict[str, str]]) -> set[bytes]:
    """Return the secrets as they are written, and as they are sent."""
    (dumped,) = secrets.values()
    keys = Keys.load(dumped)
    assert keys is not None
    assert len(set(dumped.values())) == 3
    return {each.encode() for each in dumped.values()} | {bytes.fromhex(keys.token)}


def make(fill: float) -> Any:
    return large(fill)


def fail(array: Any) -> None:
    raise ValueError(f"{array.nbytes} bytes, all of them wrong")


def exposed(process: Process) -> Iterator[tuple[str, bytes]]:
    """Yield what others of the machine see of processes."""
    for pid in [process.pid, *children(process.pid)]:
        for name in ("cmdline", "environ"):
            yield f"{name} of {pid}", Path(f"/proc/{pid}/{name}").read_bytes()


def of_scheduler(dask_scheduler: Any) -> list[str]:
    return [repr(dask_scheduler), repr(dask_scheduler.plugins)]


def of_worker(dask_worker: Any) -> list[str]:
    return [repr(dask_worker), repr(dask_worker.plugins), repr(os.environ)]


def specs(dask_scheduler: Any) -> list[bytes]:
    return [pickle.dumps(ts.run_spec) for ts in dask_scheduler.tasks.values()]


def look(client: Any, directory: Path) -> tuple[set[bytes], list[tuple[str, Any]]]:
    """Use a cluster on all paths; return its secrets, and what there is to see."""
    session = session_of(client)
    store = session.store
    client.wait_for_workers(2, 30)
    one, two = client.scheduler_info()["workers"]
    sent = client.submit(np.sum, large(), workers=one)
    made = client.submit(make, 2.0, workers=one)
    read = client.submit(np.sum, made, workers=two)
    failed = client.submit(fail, made, workers=two)
    assert all(client.gather([sent, read]))
    reference = store.put_reference(large(3.0))
    proxy = store.proxy(large(4.0))
    with pytest.raises(ValueError, match="all of them") as caught:
        failed.result(30)
    errors: list[Exception] = [caught.value]
    store.evict(reference.key)
    for wrong in (("x" * 33, 1, "y"), "nonsense"):
        with pytest.raises(daskref.exceptions.DaskrefError) as wire:
            store.connector.get(wrong)
        errors.append(wire.value)
    client.dump_cluster_state(str(directory / "dump"), format="yaml")
    seen = [
        *(("error", repr(each)) for each in errors),
        *(("error", pickle.dumps(each)) for each in errors),
        *(("repr", repr(each)) for each in (client, session, session.info)),
        *(("repr", repr(each)) for each in (store, store.connector, reference)),
        ("repr", repr(vars(store.connector))),
        ("repr", repr(session.info.settings)),
        ("config", repr(store.config())),
        ("config", pickle.dumps(store.config())),
        ("config", repr(store.connector.config())),
        ("reference", pickle.dumps(reference)),
        ("proxy", pickle.dumps(proxy)),
        ("proxy", repr(get_factory(proxy))),
        ("scheduler", client.run_on_scheduler(of_scheduler)),
        ("graph", client.run_on_scheduler(specs)),
        ("workers", client.run(of_worker)),
        ("identity", client.scheduler_info()),
        ("dump", (directory / "dump.yaml").read_bytes()),
    ]
    for path in Path(store.connector.local.directory).rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                seen.append((str(path), path.read_bytes()))
    return forms(session.info.secrets), seen


def test_keys_of_a_session_show_nowhere(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "daskref")
    with ExitStack() as stack:
        cluster = processes(env=LOUD, args=("--nanny",))
        scheduler, workers = stack.enter_context(cluster)
        client = daskref.Client(scheduler.address, connector="zmq://?security=tls")
        secrets, seen = look(stack.enter_context(client), tmp_path)
        for process in (scheduler, *workers):
            seen += exposed(process)
    logs = [caplog.text, *("".join(each.lines) for each in (scheduler, *workers))]
    assert all(logs[1:])
    for what, text in [*seen, *(("log", log) for log in logs)]:
        data = text if isinstance(text, bytes) else repr(text).encode()
        assert not any(secret in data for secret in secrets), what
