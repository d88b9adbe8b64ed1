"""Files that clients upload, and tasks that they run again themselves."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import daskref
from tests.support.common import LARGE, large

#: Of the files, several times the threshold.
NBYTES = 5_000_000


@pytest.fixture(scope="module", params=[Client, daskref.Client])
def client(request: pytest.FixtureRequest) -> Any:
    """Plain Dask's is the referee."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        request.param(cluster) as client,
    ):
        yield client


def names(client: Any) -> tuple[str, str]:
    """Return names of modules that no other test has uploaded."""
    kind = type(client).__module__.partition(".")[0]
    return f"uploaded_by_{kind}", f"zipped_by_{kind}"


def there(module: str) -> Any:
    return __import__(module).nbytes()


class TestUploads:
    SOURCE = "TEXT = '" + "x" * NBYTES + "'\ndef nbytes():\n    return len(TEXT)\n"

    def test_module(self, client: Any, tmp_path: Path) -> None:
        name, _ = names(client)
        path = tmp_path / f"{name}.py"
        path.write_text(self.SOURCE)
        client.upload_file(str(path))
        assert client.submit(there, name).result() == NBYTES

    def test_zip(self, client: Any, tmp_path: Path) -> None:
        _, name = names(client)
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:  # not compressed
            archive.writestr(f"{name}.py", self.SOURCE)
        client.upload_file(str(path))
        assert client.submit(there, name).result() == NBYTES

    def test_data(self, client: Any, tmp_path: Path) -> None:
        path = tmp_path / "data.py"  # that must not be imported
        content = bytes(range(256)) * (NBYTES // 256)
        path.write_bytes(content)
        client.upload_file(str(path), load=False)

        def same(dask_worker: Any) -> bool:
            found = Path(dask_worker.local_directory, "data.py").read_bytes()
            return found == bytes(range(256)) * (5_000_000 // 256)

        assert list(client.run(same).values()) == [True]


class TestAgainHere:
    """Large values everywhere: in arguments, dependencies, keywords, closures."""

    def test_a_task(self, client: Any) -> None:
        x, y = large(), large(2.0)

        def work(a: Any, b: Any, *, c: Any, d: Any) -> Any:
            kinds = {type(each) for each in (a, b, c, *d)}
            return kinds == {np.ndarray} and float((a + b + c + d[0] + y).sum())

        [scattered] = client.scatter([large(3.0)])
        made = client.submit(large, 4.0)
        future = client.submit(work, x, scattered, c=made, d=[large(5.0)], pure=False)
        assert future.result() == LARGE / 8 * 15
        assert client.recreate_task_locally(future) == LARGE / 8 * 15

    def test_an_error(self, client: Any) -> None:
        def fail(a: Any, b: Any, c: Any) -> None:
            raise ValueError(type(a), len(b), float(c.sum()))

        scattered = client.scatter(large(3.0))
        future = client.submit(fail, large(), bytes(LARGE), scattered, pure=False)
        assert future.exception().args == (np.ndarray, LARGE, LARGE / 8 * 3)
        with pytest.raises(ValueError) as caught:
            client.recreate_error_locally(future)
        assert caught.value.args == (np.ndarray, LARGE, LARGE / 8 * 3)

    def test_a_collection(self, client: Any) -> None:
        def fail(a: Any, b: Any) -> None:
            raise ValueError(float((a + b).sum()))

        x = dask.delayed(large)(1.0).persist()
        failing = dask.delayed(fail)(x, large(2.0))
        with pytest.raises(ValueError) as caught:
            client.recreate_error_locally(client.compute(failing))
        assert caught.value.args == (LARGE / 8 * 3,)
