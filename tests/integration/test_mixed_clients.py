"""Peers without daskref: plain values for clients, one clear error for servers."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import dask
import distributed
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from daskref.cli import main
from daskref.exceptions import NotInstalledError
from tests.support.common import (
    large,
    processes,
    start_scheduler,
    start_worker,
    wait_until,
)

SUM = 262144.0

#: Hides daskref, its entry point too, as where it is not installed.
SITECUSTOMIZE = """
import importlib.metadata
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "daskref":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())


def hide(metadata):
    every = metadata.MetadataPathFinder.find_distributions

    def find_distributions(*args, **kwargs):
        for found in every(*args, **kwargs):
            if found.metadata["Name"] != "daskref":
                yield found

    metadata.MetadataPathFinder.find_distributions = staticmethod(find_distributions)


hide(importlib.metadata)
try:  # Dask on Python 3.11 uses the backport
    import importlib_metadata
except ImportError:
    pass
else:
    hide(importlib_metadata)
"""


@pytest.fixture(scope="module")
def without(tmp_path_factory: Any) -> dict[str, str]:
    """Environment of a process that has no daskref."""
    path = tmp_path_factory.mktemp("without")
    (path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {"PYTHONPATH": str(path)}


def make(fill: float = 1.0) -> Any:
    return large(fill)


def total(x: Any) -> float:
    assert type(x) is np.ndarray
    return float(x.sum())


def share(key: str, client: Any) -> Any:
    """Return another client's future of a key, as if it had come in a message."""
    future = distributed.Future(key, client)  # first: the answer may come at once
    message = {"op": "client-desires-keys", "keys": [key], "client": client.id}
    client._send_to_scheduler(message)
    return future


def nothing_is_stored(client: Any) -> bool:
    return not daskref.stats(client)["objects"]


@pytest.mark.slow
def test_the_disguise_works(without: Any) -> None:
    code = """
        import distributed
        from distributed.protocol.serialize import families
        assert "daskref" not in families
        import daskref
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=without,
        capture_output=True,
        text=True,
    )
    assert done.returncode
    assert "ModuleNotFoundError: No module named 'daskref'" in done.stderr


@pytest.fixture(params=["before", "after"])
def both(request: Any, cluster: Any) -> Iterator[Any]:
    """A client with daskref and a plain one, which came before or after it."""
    if request.param == "before":
        with (
            distributed.Client(cluster, set_as_default=False) as plain,
            daskref.Client(cluster) as client,
        ):
            yield client, plain
            gc.collect()
            wait_until(lambda: nothing_is_stored(client), "everything freed")
    else:
        with (
            daskref.Client(cluster) as client,
            distributed.Client(cluster, set_as_default=False) as plain,
        ):
            yield client, plain
            gc.collect()
            wait_until(lambda: nothing_is_stored(client), "everything freed")


class TestPlainClientInTheSameProcess:
    def test_its_own_work(self, both: Any) -> None:
        client, plain = both
        before = daskref.stats(client)
        x = large()
        assert plain.submit(total, x).result() == SUM
        assert type(plain.submit(make).result()) is np.ndarray
        future = plain.scatter(x)
        assert plain.submit(total, future).result() == SUM
        assert type(future.result()) is np.ndarray
        assert type(plain.gather([future])[0]) is np.ndarray
        assert plain.gather(future, direct=True)[0] == 1
        assert daskref.stats(client)["bytes_kept"] == before["bytes_kept"]
        assert daskref.stats(client)["puts"] == before["puts"]

    def test_its_own_work_between_workers(self, both: Any) -> None:
        _, plain = both
        first, second = plain.scheduler_info()["workers"]
        made = plain.submit(make, workers=[first])
        assert plain.submit(total, made, workers=[second]).result() == SUM
        # the transfer may have gone by reference: the client does not see it
        assert type(made.result()) is np.ndarray

    @pytest.mark.parametrize("direct", [False, True])
    def test_results_of_a_client_with_daskref(self, both: Any, direct: bool) -> None:
        client, plain = both
        first, second = client.scheduler_info()["workers"]
        made = client.submit(make, key="made", workers=[first])
        # stored now, in the worker's memory a proxy
        assert client.submit(total, made, workers=[second]).result() == SUM
        assert type(made.result()) is np.ndarray
        theirs = share("made", plain)
        found = plain.gather(theirs, direct=direct)
        assert type(found) is np.ndarray
        assert found.flags.writeable
        assert float(found.sum()) == SUM
        del theirs

    @pytest.mark.parametrize("direct", [False, True])
    def test_scattered_data(self, both: Any, direct: bool) -> None:
        client, plain = both
        future = client.scatter(large())
        theirs = share(future.key, plain)
        found = plain.gather(theirs, direct=direct)
        assert type(found) is np.ndarray
        assert plain.submit(total, theirs).result() == SUM
        del theirs

    def test_published_datasets(self, both: Any) -> None:
        client, plain = both
        client.publish_dataset(ours=client.scatter(large()), value=large(2))
        try:
            assert float(plain.get_dataset("ours").result().sum()) == SUM
            assert type(plain.get_dataset("value")) is np.ndarray
        finally:
            client.unpublish_dataset("ours")
            client.unpublish_dataset("value")

    def test_queues_and_variables(self, both: Any) -> None:
        client, plain = both
        variable = distributed.Variable("ours", client=client)
        future = client.scatter(large())
        variable.set(future)
        theirs = distributed.Variable("ours", client=plain).get()
        assert float(theirs.result().sum()) == SUM
        variable.delete()
        del theirs

    def test_actors(self, both: Any) -> None:
        client, plain = both
        ours = client.submit(Keeper, actor=True, key="keeper").result()
        assert float(ours.keep(large()).result().sum()) == SUM
        theirs = share("keeper", plain).result()
        assert type(theirs.kept) is np.ndarray
        assert type(theirs.keep(large(2)).result()) is np.ndarray
        del ours, theirs

    def test_run(self, both: Any) -> None:
        _, plain = both
        for x in plain.run(make).values():
            assert type(x) is np.ndarray
        assert type(plain.run_on_scheduler(make)) is np.ndarray


class Keeper:
    """An actor."""

    kept: Any = None

    def keep(self, x: Any) -> Any:
        self.kept = x
        return x


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_plain_client_in_another_process(
    cluster: Any, client: Any, without: Any, installed: bool
) -> None:
    first, second = client.scheduler_info()["workers"]
    made = client.submit(make, key="made", workers=[first])
    assert client.submit(total, made, workers=[second]).result() == SUM
    scattered = client.scatter({"scattered": large(2)})
    client.publish_dataset(dataset=scattered["scattered"])
    code = """
        import json, sys
        import distributed, numpy as np

        def total(x):
            return type(x).__name__, float(x.sum())

        def share(key):
            future = distributed.Future(key, client)
            message = {"op": "client-desires-keys", "keys": [key], "client": client.id}
            client._send_to_scheduler(message)
            return future

        with distributed.Client(sys.argv[1]) as client:
            found = [
                share("made").result(),
                share("scattered").result(),
                client.gather(share("made"), direct=True),
                client.get_dataset("dataset").result(),
                client.submit(np.ones, 1 << 18).result(),
                client.scatter(np.ones(1 << 18)).result(),
            ]
            seen = [[type(x).__name__, float(x.sum())] for x in found]
            seen.append(client.submit(total, np.ones(1 << 18)).result())
            seen.append(client.submit(total, share("made")).result())
            print(json.dumps(seen), "daskref.client.client" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), cluster.scheduler_address],
        env=None if installed else without,
        capture_output=True,
        text=True,
        timeout=60,
    )
    client.unpublish_dataset("dataset")
    assert done.returncode == 0, done.stderr
    text, _, ours = done.stdout.strip().rpartition(" ")
    values = [SUM, 2 * SUM, SUM, 2 * SUM, SUM, SUM, SUM, SUM]
    assert json.loads(text) == [["ndarray", value] for value in values]
    assert ours == "False"


def has_daskref() -> Any:
    """Return a function that tells; it travels by value."""

    def look() -> bool:
        try:
            import daskref  # noqa: F401
        except ModuleNotFoundError:
            return False
        return True

    return look


class TestPeersWithoutDaskref:
    # what they run they must be able to import: NumPy's functions, and lambdas

    @pytest.mark.slow
    def test_a_scheduler(self, without: Any, caplog: Any) -> None:
        with processes(workers=1, env=without) as (scheduler, _):
            with pytest.raises(NotInstalledError) as caught:
                daskref.Client(scheduler.address, timeout=20)
            text = str(caught.value)
            assert f"the scheduler {scheduler.address}" in text
            assert "pip install daskref" in text
            with distributed.Client(scheduler.address) as plain:
                with pytest.raises(NotInstalledError, match="the scheduler"):
                    daskref.enable(plain)
                assert type(plain) is distributed.Client
                assert plain.submit(np.sum, large()).result() == SUM
            # switched on by configuration, clients go on as well; the log says why
            caplog.clear()
            for _ in range(2):
                with (
                    dask.config.set({"distributed.client.preload": ["daskref"]}),
                    distributed.Client(scheduler.address) as plain,
                ):
                    assert type(plain) is distributed.Client
                    assert plain.submit(np.sum, large()).result() == SUM
            (told,) = [r.getMessage() for r in caplog.records]
            assert "a client goes on as plain Dask: daskref is not installed on" in told

    @pytest.mark.slow
    def test_the_command_line_says_so(self, without: Any, capsys: Any) -> None:
        with processes(workers=1, env=without) as (scheduler, _):
            assert main(["stats", scheduler.address]) == 4
            assert "No module named 'daskref'" in capsys.readouterr().err
            assert main(["doctor", scheduler.address, "--json"]) == 1
        found = json.loads(capsys.readouterr().out)
        lacking = [each for each in found if each["check"] == "daskref"]
        assert len(lacking) == 2
        assert all(each["told"] == "it is not installed" for each in lacking)
        assert all("Install daskref" in each["mend"] for each in lacking)

    @pytest.mark.slow
    def test_one_worker_of_two(self, without: Any) -> None:
        scheduler = start_scheduler()
        started = [
            start_worker(scheduler.address),
            start_worker(scheduler.address, env=without),
        ]
        try:
            with distributed.Client(scheduler.address) as plain:
                plain.wait_for_workers(2, timeout=20)
                found = plain.run(has_daskref())
                (missing,) = [address for address, has in found.items() if not has]
                with pytest.raises(NotInstalledError) as caught:
                    daskref.Client(scheduler.address, set_as_default=False)
                assert caught.value.where == [f"worker {missing}"]
                with pytest.raises(NotInstalledError, match=missing):
                    daskref.enable(plain)
                # both go on with plain Dask
                futures = plain.map(np.sum, [large(i) for i in range(3)])
                assert plain.gather(futures) == [SUM * i for i in range(3)]
                # once it is gone there is nothing in the way
                plain.retire_workers([missing])
                wait_until(lambda: len(plain.scheduler_info()["workers"]) == 1)
                with daskref.Client(scheduler.address, set_as_default=False) as client:
                    assert client.submit(np.sum, large()).result() == SUM
                    assert daskref.stats(client)["puts"] == 1
        finally:
            for process in [*started, scheduler]:
                process.stop()

    @pytest.mark.slow
    @pytest.mark.parametrize("nanny", ["--no-nanny", "--nanny"])
    def test_a_worker_that_comes_late(self, without: Any, nanny: str) -> None:
        with (
            processes(workers=1) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            future = client.scatter(large())
            late = start_worker(scheduler.address, nanny, env=without)
            try:
                output = late.lines
                wait_until(
                    lambda: [line for line in output if "pip install daskref" in line],
                    "its complaint",
                )
                late.popen.wait(30)
            finally:
                late.stop()
            wait_until(lambda: len(client.scheduler_info()["workers"]) == 1)
            assert client.submit(np.sum, future).result() == SUM
            assert client.submit(np.sum, large(2)).result() == 2 * SUM


class TestInProcess:
    def test_a_cluster_of_one_process_with_a_plain_client(self) -> None:
        with (
            LocalCluster(processes=False, n_workers=2, dashboard_address=":0") as one,
            daskref.Client(one) as client,
            distributed.Client(one, set_as_default=False) as plain,
        ):
            made = client.submit(make, key="made")
            scattered = client.scatter({"scattered": large(2)})
            assert client.submit(total, scattered["scattered"]).result() == 2 * SUM
            for key, expected in (("made", SUM), ("scattered", 2 * SUM)):
                theirs = share(key, plain)
                assert total(theirs.result()) == expected
                assert plain.submit(total, theirs).result() == expected
            x = large(3)
            future = plain.scatter(x)
            assert plain.submit(total, future).result() == 3 * SUM
            assert total(future.result()) == 3 * SUM
            assert made.result()[0] == 1
            del theirs, future, made, scattered

    def test_enable_leaves_other_clients_alone(self) -> None:
        with (
            LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as one,
            distributed.Client(one) as enabled,
            distributed.Client(one, set_as_default=False) as plain,
        ):
            daskref.enable(enabled)
            assert type(plain) is distributed.Client
            assert type(plain.rpc) is distributed.core.ConnectionPool
            assert plain.rpc.serializers is None
            assert enabled.submit(total, large()).result() == SUM
            assert plain.submit(total, large()).result() == SUM
            daskref.disable(enabled)
            assert enabled.submit(total, large()).result() == SUM


class TestBlockedHandlers:
    """Administrators may forbid schedulers and workers to run functions of clients."""

    @pytest.mark.parametrize("where", ["scheduler", "worker"])
    def test_a_client_goes_on_as_plain_dask_does(
        self, where: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        blocked = {"scheduler": ["run_function"], "worker": ["run"]}[where]
        with (
            dask.config.set({f"distributed.{where}.blocked-handlers": blocked}),
            LocalCluster(
                processes=False,
                protocol="tcp",
                n_workers=1,
                dashboard_address=":0",
            ) as cluster,
            daskref.Client(cluster) as client,
        ):
            assert client.submit(total, large()).result() == SUM
            assert client.submit(total, client.scatter(large(2))).result() == 2 * SUM
            assert total(client.submit(make).result()) == SUM
        warned = [r for r in caplog.records if r.name.startswith("daskref")]
        assert len(warned) <= 1

    def test_unless_a_failure_is_to_be_an_error(self) -> None:
        with (
            dask.config.set(
                {"distributed.scheduler.blocked-handlers": ["run_function"]}
            ),
            LocalCluster(
                processes=False,
                protocol="tcp",
                n_workers=0,
                dashboard_address=":0",
            ) as cluster,
            dask.config.set({"daskref.on-failure": "raise"}),
            pytest.raises(ValueError, match="disallowed"),
        ):
            daskref.Client(cluster)
