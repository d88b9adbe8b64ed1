"""A call passes through no more modules than it did: a reader opens them all."""

from __future__ import annotations

import pytest

from daskref.units import parse_size
from tests.package.hops import CALLS, trace


def test_a_trace_counts_calls_changes_of_module_and_modules():
    found, size = trace(parse_size, "1 MiB", "a size")
    assert (found, size) == ((2, 1, ("units",)), 2**20)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_call_passes_through_no_more_modules(name):
    call = CALLS[name]
    found = call.trace()
    assert len(found.modules) <= call.bound, " > ".join(found.modules)
