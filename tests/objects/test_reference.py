"""References: a key, how to reach the store, metadata; and no I/O."""

from __future__ import annotations

import builtins
import copy
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dask.sizeof import sizeof
from dask.tokenize import tokenize

from daskref.objects import reference as module
from daskref.objects.reference import Metadata, Reference, StoreConfig, describe

NOWHERE = StoreConfig("nowhere", "no.such.module:Connector", (("path", "/nowhere"),))


def refer(obj: Any, key: Any = ("key", 1), token: str | None = "t") -> Reference:
    return Reference(key, NOWHERE, describe(obj, 1000, token))


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


class HashFails:
    def __hash__(self) -> int:
        raise ValueError("no hash today")


class OddLength:
    def __len__(self) -> int:
        raise RuntimeError("not known yet")


class OddShape:
    shape = (None, 3)
    dtype = "f8"


class TestDescribe:
    def test_array(self) -> None:
        meta = describe(np.zeros((2, 3), "f4"), 24, "token")
        assert meta.type_name == "numpy.ndarray"
        assert meta.type() is np.ndarray
        assert (meta.nbytes, meta.token) == (24, "token")
        assert (meta.length, meta.shape, meta.dtype) == (2, (2, 3), "float32")
        assert not meta.hashable
        assert meta.cached_hash() is None

    def test_scalar_array_has_no_length(self) -> None:
        meta = describe(np.array(1), 8)
        assert meta.length is None
        assert meta.shape == ()

    def test_frame(self) -> None:
        meta = describe(pd.DataFrame({"a": [1, 2]}), 100)
        assert (meta.length, meta.shape, meta.dtype) == (2, (2, 1), None)

    def test_hashable(self) -> None:
        meta = describe("text", 4)
        assert meta.hashable
        assert meta.cached_hash() == hash("text")
        assert meta.length == 4

    @pytest.mark.parametrize("obj", [Unhashable(), [], {}, HashFails(), ([],)])
    def test_not_hashable(self, obj: Any) -> None:
        meta = describe(obj, 10)
        assert not meta.hashable
        assert meta.cached_hash() is None

    def test_a_hash_by_identity_is_not_kept(self) -> None:
        meta = describe(object(), 10)
        assert meta.hashable
        assert meta.hash is None

    def test_odd_classes(self) -> None:
        assert describe(OddLength(), 1).length is None
        assert describe(OddShape(), 1).shape is None
        assert describe(OddShape(), 1).dtype is None

    def test_a_class_as_the_object(self) -> None:
        meta = describe(np.ndarray, 10)  # has `shape` and `dtype`, as descriptors
        assert meta.type() is type
        assert meta.shape is None

    def test_a_local_class_travels_by_value(self) -> None:
        class Local:
            """Of this function."""

        meta = pickle.loads(pickle.dumps(describe(Local(), 10)))
        assert meta.type().__doc__ == "Of this function."

    def test_describing_changes_and_keeps_nothing(self) -> None:
        x = np.zeros(10)
        before = sys.getrefcount(x)
        describe(x, 80)
        assert sys.getrefcount(x) == before


def test_a_hash_of_another_salt_is_not_used(monkeypatch: Any) -> None:
    meta = describe("text", 4)
    monkeypatch.setattr(module, "hash_salt", lambda: -1)
    assert meta.cached_hash() is None


@pytest.mark.slow
def test_processes_with_other_salts_tell() -> None:
    code = "from daskref.objects.reference import hash_salt; print(hash_salt())"
    salts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "1", "2")
    }
    assert len(salts) == 2


class TestInert:
    @pytest.fixture(autouse=True)
    def _no_store(self, monkeypatch: Any) -> None:
        def forbidden(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("a reference touched the outside")

        monkeypatch.setattr("daskref.store.factory.get_or_make", forbidden)
        monkeypatch.setattr("daskref.connectors.registry.load_class", forbidden)
        monkeypatch.setattr(builtins, "open", forbidden)
        monkeypatch.setattr(Metadata, "type", forbidden)

    def test_everything_but_resolving(self) -> None:
        ref = refer(np.zeros(1000))
        again = pickle.loads(pickle.dumps(ref))
        assert again == ref == copy.copy(ref) == copy.deepcopy(ref)
        assert hash(again) == hash(ref)
        assert repr(ref) == "<Reference numpy.ndarray (1000,) 1000 B at ('key', 1)>"
        assert tokenize(again) == tokenize(ref)
        assert sizeof(ref) < 2000
        assert ref.nbytes == 1000

    def test_small_on_the_wire(self) -> None:
        assert len(pickle.dumps(refer(np.zeros(10**6)))) < 1000


def test_equality_is_of_keys() -> None:
    assert refer([1]) == refer([2])
    assert refer([1]) != refer([1], ("other", 1))
    assert refer([1]) != ("key", 1)
    assert len({refer([1]), refer([2]), refer([1], ("other", 1))}) == 2


def test_tokens_are_of_content_where_it_is_known() -> None:
    assert tokenize(refer([1], ("a", 1))) == tokenize(refer([1], ("b", 1)))
    unknown = [refer([1], ("a", 1), None), refer([1], ("b", 1), None)]
    assert tokenize(unknown[0]) != tokenize(unknown[1])


@pytest.mark.slow
def test_a_process_without_the_type_can_handle_it() -> None:
    # as a scheduler without NumPy does
    data = pickle.dumps(refer(np.zeros(1000)))
    code = (
        "import sys; sys.modules['numpy'] = sys.modules['pandas'] = None\n"
        "import pickle; from dask.tokenize import tokenize\n"
        f"ref = pickle.loads({data!r})\n"
        "tokenize(ref), hash(ref), pickle.dumps(ref)\n"
        "print(ref)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "numpy.ndarray (1000,)" in out
