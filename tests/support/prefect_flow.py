"""A flow on Prefect's Dask task runner, whose client is switched on by configuration.

Not a test: it needs ``prefect`` and ``prefect-dask``, and starts Prefect's server on
loopback, which takes up to a minute. Run it by hand::

    pip install prefect prefect-dask
    DASK_DISTRIBUTED__CLIENT__PRELOAD='["daskref"]' python tests/support/prefect_flow.py

It ends with an error unless the flow's values have gone by reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import daskref


def main() -> None:
    """Run the flow on a cluster that Prefect makes, with a server of its own."""
    from prefect import flow, task
    from prefect.context import FlowRunContext
    from prefect.testing.utilities import prefect_test_harness
    from prefect_dask import DaskTaskRunner

    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0"}

    @task
    def total(x: Any) -> float:
        assert type(x) is np.ndarray
        return float(x.sum())

    @flow(task_runner=DaskTaskRunner(cluster_kwargs=options))
    def sweep(x: Any) -> tuple[list[float], int]:
        found = [future.result() for future in [total.submit(x) for _ in range(4)]]
        context = FlowRunContext.get()
        assert context is not None
        client: Any = context.task_runner.client  # type: ignore[attr-defined]
        return found, daskref.stats(client)["puts"]

    with prefect_test_harness(server_startup_timeout=120):
        found, puts = sweep(np.ones(1 << 19))
    assert found == [2.0**19] * 4
    assert puts >= 1
    print(f"four tasks have had the array; it was put {puts} times")


if __name__ == "__main__":
    main()
