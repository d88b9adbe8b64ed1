"""What a store did, by key and in all."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from distributed.metrics import context_meter

from daskref import Store, get_store, resolve
from daskref.connectors import LocalConnector
from daskref.store.metrics import COUNTERS, Counters, StoreMetrics, TimeStats, metered
from tests.store.test_store import ProxyStoreConnector


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("measured", LocalConnector(), metrics=True, register=True) as store:
        yield store


def metrics_of(store: Store) -> StoreMetrics:
    assert store.metrics is not None
    return store.metrics


def test_off_by_default() -> None:
    with Store("plain", LocalConnector()) as store:
        store.put(1)
        assert store.metrics is None


def test_by_key(store: Store) -> None:
    key = store.put(bytes(5000))
    other = store.put(1)
    for _ in range(3):
        store.get(key)
    store.evict(key)
    found = metrics_of(store).get_metrics(key)
    assert found is not None
    assert found.counters == {"store.get.cache_misses": 1, "store.get.cache_hits": 2}
    assert {name: stats.count for name, stats in found.times.items()} == {
        "store.put": 1,
        "store.put.serialize": 1,
        "store.put.connector": 1,
        "store.get": 3,
        "store.get.connector": 1,
        "store.get.deserialize": 1,
        "store.evict": 1,
        "store.evict.connector": 1,
    }
    for name in ("store.put.object_size", "store.get.object_size"):
        assert 5000 < found.attributes[name] < 6000
    for name in ("store.put", "store.get", "store.evict"):
        parts = [s for n, s in found.times.items() if n.startswith(f"{name}.")]
        whole = found.times[name]
        assert 0 < sum(part.total_time_ms for part in parts) <= whole.total_time_ms
    assert "store.get" not in metrics_of(store).get_metrics(other).times  # type: ignore[union-attr]
    assert metrics_of(store).get_metrics(("no", "key")) is None


def test_in_all(store: Store) -> None:
    keys = [store.put(bytes(1000)) for _ in range(3)]
    for key in keys:
        store.get(key)
    total = metrics_of(store).total()
    assert total.times["store.put"].count == 3
    assert total.counters == {"store.get.cache_misses": 3}
    assert total.attributes["store.put.object_size"] > 3000
    assert metrics_of(store).aggregate_times()["store.get"].count == 3
    json.dumps(total.as_dict())


def test_proxies(store: Store) -> None:
    proxy = store.proxy([1], populate_target=False)
    resolve(proxy)
    found = metrics_of(store).get_metrics(proxy)
    assert found is not None
    assert found.times["store.proxy"].count == 1
    assert found.times["store.get"].count == 1


def test_batches() -> None:
    connector: Any = ProxyStoreConnector("measured")
    with Store("batches", connector, metrics=True) as store:
        keys = store.put_batch([bytes(1000), bytes(2000)])
        batch = metrics_of(store).get_metrics(keys)
        assert batch is not None
        assert batch.times["store.put_batch.connector"].count == 1
        total = batch.attributes["store.put_batch.object_sizes"]
        assert 3000 < total < 5000
        sizes = [metrics_of(store).get_metrics(key).attributes for key in keys]  # type: ignore[union-attr]
        assert [size["store.put.object_size"] // 1000 for size in sizes] == [1, 2]


def test_a_batch_is_measured_where_the_connector_has_none(store: Store) -> None:
    keys = store.put_batch([bytes(1000), bytes(2000), bytes(3000)])
    batch = metrics_of(store).get_metrics(keys)
    assert batch is not None
    assert 6000 < batch.attributes["store.put_batch.object_sizes"] < 9000
    parts = {"", ".serialize", ".connector"}
    assert {f"store.put_batch{part}" for part in parts} == batch.times.keys()
    assert all(times.count == 1 for times in batch.times.values())
    for key in keys:
        assert metrics_of(store).get_metrics(key).times["store.put"].count == 1  # type: ignore[union-attr]


def test_a_batch_of_proxies(store: Store) -> None:
    proxies = store.proxy_batch([[1], None, [2]], skip_nonproxiable=True)
    batch = metrics_of(store).get_metrics([proxies[0], proxies[2]])
    assert batch is not None
    assert batch.times["store.proxy_batch"].count == 1
    assert batch.times["store.put_batch"].count == 1
    assert store.proxy_batch([]) == []


def test_asking_whether_an_object_is_there(store: Store) -> None:
    key = store.put([1])
    assert store.exists(key)
    found = metrics_of(store).get_metrics(key)
    assert found is not None
    assert found.times["store.exists.connector"].count == 1


def test_other_processes_measure_too(store: Store) -> None:
    config = pickle.loads(pickle.dumps(store.config()))
    with Store.from_config(config) as other:
        assert other.metrics is not None
        assert other.metrics is not store.metrics


def test_memory_is_bounded() -> None:
    metrics = StoreMetrics(keys=2)
    for number in range(5):
        metrics.add_time("store.put", (number,), 1.0)
        metrics.add_counter("store.get.cache_hits", (0,), 1)
    assert len(metrics._by_key) == 2
    assert metrics.get_metrics((0,)) is not None  # used last
    assert metrics.get_metrics((2,)) is None
    assert metrics.total().times["store.put"].count == 5
    assert metrics.total().counters["store.get.cache_hits"] == 5


def test_reports_do_not_change(store: Store) -> None:
    key = store.put([1])
    before = metrics_of(store).get_metrics(key)
    store.get(key)
    assert before is not None
    assert "store.get" not in before.times
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.counters = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        before.counters["x"] = 1  # type: ignore[index]


def test_times_add_up() -> None:
    stats = TimeStats()
    for time_ms in (3.0, 1.0, 2.0):
        stats = stats.add_time(time_ms)
    assert (stats.count, stats.min_time_ms, stats.max_time_ms) == (3, 1.0, 3.0)
    assert stats.avg_time_ms == pytest.approx(2.0)
    assert stats.total_time_ms == pytest.approx(6.0)
    assert stats.last_time_ms == 2.0
    assert stats.last_timestamp > 0


def test_of_a_proxys_store(store: Store) -> None:
    assert get_store(store.proxy([1])) is store


def test_counters_start_at_zero_and_add_up() -> None:
    counters = Counters()
    assert counters.snapshot() == dict.fromkeys(COUNTERS, 0)
    counters.add("puts")
    counters.add("bytes_kept", 100)
    counts = counters.snapshot()
    assert (counts["puts"], counts["bytes_kept"]) == (1, 100)
    counts["puts"] = 99
    assert counters.snapshot()["puts"] == 1


def test_an_unknown_counter_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Counters().add("putts")


def test_values_in_band_are_counted_by_reason() -> None:
    counters = Counters()
    assert counters.add_inband("gpu")
    assert not counters.add_inband("gpu")
    assert counters.add_inband("failed")
    found = counters.inband()
    assert (found["gpu"], found["failed"], found["unreachable"]) == (2, 1, 0)
    with pytest.raises(KeyError):
        counters.add_inband("gpus")


def test_threads_lose_no_count() -> None:
    counters = Counters()
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: counters.add("gets"), range(4000)))
    assert counters.snapshot()["gets"] == 4000


def test_metered_reports_to_dask() -> None:
    seen: list[tuple[Any, float, str]] = []
    with (
        context_meter.add_callback(lambda *args: seen.append(args)),  # type: ignore[arg-type]
        metered("daskref-put"),
    ):
        pass
    ((label, seconds, unit),) = seen
    assert (label, unit) == ("daskref-put", "seconds")
    assert seconds >= 0
