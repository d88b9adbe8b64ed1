"""Sameness by content, of values of all kinds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from daskref.objects.codec import encode
from tests.support.routes import trees
from tests.support.values import FEW, KINDS, build, differences, fingerprint

pytestmark = [
    pytest.mark.filterwarnings(  # where an example fails, it is shown in full
        "ignore:Generating overly large repr:hypothesis.errors.HypothesisWarning"
    ),
    pytest.mark.filterwarnings(  # that is NumPy's; the zoo has one
        "ignore:the matrix subclass:PendingDeprecationWarning"
    ),
]

#: Kinds of which two values that are made alike differ nevertheless: reason.
NEVER_ALIKE = {
    "object of a local class": "each call makes another class",
    "lambda": "cloudpickle numbers what it defines",
    "numpy g": "bytes that pad each number are random",
    "numpy G": "bytes that pad each number are random",
}
#: Kinds that are stored as the same, by design: reason.
STORED_ALIKE = {
    "numpy masked, hard": "NumPy's pickle forgets that the mask is hard",
    "torch tensor with gradient": "PyTorch's pickle leaves the gradient behind",
}


def _has(spec: Any, kinds: Any) -> bool:
    if spec[0] == "leaf":
        return spec[1] in kinds
    return spec[0] != "same" and any(_has(part, kinds) for part in spec[1])


def _differ(a: Any, b: Any) -> bool:
    """Tell whether two values may not be taken for the same, either way."""
    x, y = fingerprint(a), fingerprint(b)
    return any(differences(x, y)) and any(differences(y, x))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_content_and_length_make_the_token(name: str) -> None:
    kind = KINDS[name]
    cases = [(seed, length) for seed in (1, 2, 5) for length in (0, 2, 3, 40)]
    tokens = {case: encode(kind(*case)).token for case in cases}
    if name not in NEVER_ALIKE:
        assert {case: encode(kind(*case)).token for case in cases} == tokens
    seen = {case: fingerprint(kind(*case)) for case in cases}
    for a in cases:
        for b in cases:
            if seen[a] != seen[b] and _differ(kind(*a), kind(*b)):
                assert tokens[a] != tokens[b], (a, b)


def test_kinds_are_told_apart() -> None:
    values: dict[str, list[Any]] = {}
    for name, kind in KINDS.items():
        if name not in STORED_ALIKE:
            values.setdefault(encode(kind(3, 7)).token, []).append(name)
    for names in values.values():
        for a in names:
            for b in names:
                assert not _differ(KINDS[a](3, 7), KINDS[b](3, 7)), (a, b)


_settings = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@_settings
@given(trees(longest=FEW), trees(longest=FEW))
def test_nested_values(first: Any, second: Any) -> None:
    token = encode(build(first)).token
    if not _has(first, NEVER_ALIKE):
        assert encode(build(first)).token == token
    if _has(first, STORED_ALIKE) or _has(second, STORED_ALIKE):
        return
    if _differ(build(first), build(second)):
        assert encode(build(second)).token != token


@_settings
@given(trees(longest=FEW))
def test_one_leaf_changed(spec: Any) -> None:
    if _has(spec, STORED_ALIKE):
        return
    other = _with_a_change(spec)
    if _differ(build(spec), build(other)):
        assert encode(build(spec)).token != encode(build(other)).token


def _with_a_change(spec: Any) -> Any:
    """Return a description with another seed in its last leaf."""
    if spec[0] == "leaf":
        return (*spec[:2], spec[2] + 1, spec[3])
    if spec[0] == "same" or not spec[1]:
        return spec
    return spec[0], [*spec[1][:-1], _with_a_change(spec[1][-1])]
