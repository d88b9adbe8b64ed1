"""Actors: arguments, results and attributes of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import daskref
from tests.support.common import large


class Accumulator:
    """An actor."""

    state = None

    def add(self, x: Any) -> Any:
        assert type(x) is np.ndarray
        assert x.flags.writeable
        self.state = x if self.state is None else self.state + x
        return self.state

    async def add_async(self, x: Any) -> Any:
        return self.add(x)


class TestActors:
    @pytest.mark.parametrize("direct", [False, True])
    def test_arguments_results_and_attributes(self, cluster: Any, direct: bool) -> None:
        with daskref.Client(cluster, direct_to_workers=direct) as client:
            before = daskref.stats(client)["bytes_kept"]
            actor = client.submit(Accumulator, actor=True).result()
            x = large()
            assert type(actor.add(x).result()) is np.ndarray
            assert actor.add(x=x).result()[0] == 2
            assert actor.add_async(x).result()[0] == 3
            assert type(actor.state) is np.ndarray
            assert actor.state[0] == 3
            kept = daskref.stats(client)["bytes_kept"] - before
            assert kept >= 8 * x.nbytes
            del actor
