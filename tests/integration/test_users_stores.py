"""The scheduler has nothing of the stores that users make."""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import daskref
from daskref import OwnedProxy, Store, TaskLifetime, borrow, mut_borrow
from daskref.connectors import FileConnector
from daskref.store.factory import StoreFactory
from tests.support.common import processes, wait_until

SECRET = uuid.uuid4().hex


class Credentialed(FileConnector):
    """A connector that needs something which its configuration does not have."""

    def secrets(self) -> dict[str, dict[str, str]]:
        return {"somewhere": {"password": SECRET}}

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """Note which process has opened it."""
        made = super().from_config(config)
        with (Path(config["store_dir"]).parent / "opened").open("a") as file:
            print(os.getpid(), file=file)
        return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    name = f"users-{uuid.uuid4().hex}"
    with Store(name, Credentialed(tmp_path / "files"), register=True) as store:
        yield store


def use(client: Any, store: Store) -> None:
    """Bind objects to a key, and lend them to tasks, until all are gone."""
    future = client.submit(int, pure=False)
    lifetime = TaskLifetime(client, future)
    lifetime.add_key(store.put(1), store=store)
    lifetime.add_proxy(store.proxy([2]))
    owner = OwnedProxy(StoreFactory(store.put_reference([1, 2])))
    for lend in (borrow, mut_borrow):
        assert client.submit(sum, lend(owner)).result() == 3
    TaskLifetime(client, future).close()
    del future, owner
    wait_until(lambda: not store.connector.usage().objects, "deleted")


def test_messages_name_keys_of_dask_alone(
    client: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    send = client._send_to_scheduler

    def note(message: dict[str, Any]) -> None:
        if message["op"].startswith("daskref-"):
            sent.append(message)
        send(message)

    monkeypatch.setattr(client, "_send_to_scheduler", note)
    use(client, store)
    kinds = {message["op"] for message in sent}
    assert kinds == {"daskref-watch"}
    assert {message["until"] for message in sent} == {"done", "forgotten"}
    text = pickle.dumps(sent)
    for word in (store.name, str(tmp_path), "Connector", SECRET):
        assert word.encode() not in text


def known_to(dask_scheduler: Any) -> str:
    """Return all credentials that the scheduler's process knows."""
    from daskref.connectors import credentials

    return repr((credentials._known, dask_scheduler.plugins["daskref"].secrets()))


def opened_by(tmp_path: Path) -> set[int]:
    """Return the processes that have opened the store of its configuration."""
    return set(map(int, (tmp_path / "opened").read_text().split()))


@pytest.mark.slow
def test_the_scheduler_opens_no_store_of_a_user(store: Store, tmp_path: Path) -> None:
    with (
        processes(1) as (scheduler, (worker,)),
        daskref.Client(scheduler.address) as client,
    ):
        use(client, store)
        assert opened_by(tmp_path) == {worker.pid}
        assert SECRET not in client.run_on_scheduler(known_to)
