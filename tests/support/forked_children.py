"""What forked children do with what their parent has; ``test_forks`` runs it.

A program of its own: the parent has a cluster, a client and open stores. Each case is
run in a child that is forked meanwhile, and is killed if it hangs.
"""

from __future__ import annotations

import atexit
import gc
import json
import multiprocessing.util
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import distributed
import numpy as np

import daskref
from daskref.connectors import open_connector
from tests.support.forks import PATIENCE, forked

VALUE = np.arange(300_000.0)
ROUNDS = 6


def equal(value: Any) -> bool:
    return bool(np.array_equal(value, VALUE))


def total_in_pool(address: str) -> float:
    with daskref.Client(address, set_as_default=False) as client:
        return float(client.submit(np.sum, VALUE + 1).result(timeout=PATIENCE))


class Parent:
    """A process with everything; each method is a case."""

    def __init__(self, specs: dict[str, Any]) -> None:
        self.cluster = distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, dashboard_address=":0"
        )
        self.client = daskref.Client(self.cluster)
        self.address = self.cluster.scheduler_address
        self.future = self.client.submit(np.copy, VALUE)
        assert equal(self.future.result())
        self.scattered = self.client.scatter(VALUE)
        self.stores = {
            name: daskref.Store(f"forks-{name}", open_connector(spec), register=True)
            for name, spec in specs.items()
        }
        self.proxies = {
            name: store.proxy(VALUE, populate_target=False)
            for name, store in self.stores.items()
        }
        self.keys = {name: store.put(VALUE) for name, store in self.stores.items()}
        self.owned = next(iter(self.stores.values())).owned_proxy(VALUE)
        # the parent's threads run
        self.client.submit(np.sum, VALUE + 3).result()

    # With the cluster

    def client_in_child(self) -> str:
        return forked(lambda: total_in_pool(self.address) > 0)

    def client_twice(self) -> str:
        return forked(
            lambda: total_in_pool(self.address) == total_in_pool(self.address)
        )

    def client_of_a_child_of_a_child(self) -> str:
        return forked(lambda: forked(lambda: total_in_pool(self.address)) == "fine")

    def scatter_and_gather(self) -> str:
        def work() -> bool:
            with daskref.Client(self.address, set_as_default=False) as client:
                return equal(client.gather(client.scatter(VALUE * 1)))

        return forked(work)

    def pool_of_processes(self) -> str:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            totals = set(pool.map(total_in_pool, [self.address] * 4, timeout=PATIENCE))
        return "fine" if len(totals) == 1 else repr(totals)

    def multiprocessing_child(self) -> str:
        context: Any = multiprocessing.get_context("fork")
        process = context.Process(target=total_in_pool, args=(self.address,))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
        return "fine" if process.exitcode == 0 else f"exit code {process.exitcode}"

    def a_task_forks(self) -> str:
        def task(x: Any) -> str:
            return forked(lambda: equal(x) and equal(np.copy(x)))

        return str(self.client.submit(task, VALUE).result(timeout=2 * PATIENCE))

    # Without a cluster of its own

    def does_nothing(self) -> str:
        return forked(lambda: True)

    def ends_like_a_program(self) -> str:
        """With atexit handlers: ours, and finalizers."""

        def end() -> None:
            # Dask's wait in vain for threads that are not there; multiprocessing's
            # end the parent's workers
            atexit.unregister(distributed.client._close_global_client)
            atexit.unregister(distributed.deploy.spec.close_clusters)
            atexit.unregister(multiprocessing.util._exit_function)
            atexit._run_exitfuncs()

        return forked(lambda: True, end)

    def collects_everything(self) -> str:
        def work() -> bool:
            self.stores.clear()
            self.proxies.clear()
            del self.future, self.scattered, self.owned
            gc.collect()
            return True

        return forked(work)

    def closes_stores(self) -> str:
        def work() -> bool:
            for store in self.stores.values():
                store.close()
            return True

        return forked(work)

    def prefetches(self) -> str:
        def work() -> bool:
            for proxy in self.proxies.values():
                daskref.resolve_async(proxy)
            return all(equal(proxy) for proxy in self.proxies.values())

        return forked(work)

    def store_gets(self) -> str:
        return forked(
            lambda: all(equal(self.stores[n].get(k)) for n, k in self.keys.items())
        )

    def store_puts(self) -> str:
        def work() -> bool:
            for store in self.stores.values():
                key = store.put(VALUE + 5)
                assert equal(store.get(key) - 5)
                store.evict(key)
                assert not store.exists(key)
            return True

        return forked(work)

    def proxies_resolve(self) -> str:
        return forked(lambda: all(equal(proxy) for proxy in self.proxies.values()))

    # While the parent's threads hold locks

    def forks_while_threads_put(self) -> str:
        stop = threading.Event()

        def put(store: Any) -> None:
            while not stop.is_set():
                store.evict(store.put(VALUE))

        def submit() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                self.client.submit(np.sum, VALUE + number).result(timeout=PATIENCE)

        threads = [
            threading.Thread(target=put, args=(store,), daemon=True)
            for store in self.stores.values()
        ]
        threads.append(threading.Thread(target=submit, daemon=True))
        for thread in threads:
            thread.start()

        def work() -> bool:
            for name, store in self.stores.items():
                assert equal(store.get(self.keys[name]))
                store.evict(store.put(VALUE))
            return True

        said = {forked(work) for _ in range(ROUNDS)}
        said.add(forked(lambda: total_in_pool(self.address)))
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        return "fine" if said == {"fine"} else "\n".join(said)

    # And the parent

    def parent_goes_on(self) -> str:
        """Last: nobody has taken anything away."""
        assert equal(self.future.result())
        assert equal(self.scattered.result())
        assert float(self.client.submit(np.sum, VALUE + 9).result(timeout=PATIENCE))
        for name, store in self.stores.items():
            assert equal(store.get(self.keys[name])), name
            assert equal(self.proxies[name]), name
        assert equal(self.owned)
        return "fine"

    def parent_ends(self) -> str:
        del self.future, self.scattered, self.owned
        for name, store in self.stores.items():
            store.evict(self.keys[name])
            store.close()
        self.client.close()
        self.cluster.close()
        return "fine"


CASES = [name for name in vars(Parent) if not name.startswith("_")]


def main(specs: dict[str, Any]) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
    parent = Parent(specs)
    for case in CASES:
        begin = time.monotonic()
        try:
            said = getattr(parent, case)()
        except BaseException:
            said = traceback.format_exc()
        seconds = time.monotonic() - begin
        print(f"{case} took {seconds:.1f} s", file=sys.stderr, flush=True)
        print("case", json.dumps([case, said]), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
