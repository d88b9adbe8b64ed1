"""Skips for a missing part are failures under CI."""

from __future__ import annotations

import pytest

from tests.support.requirements import require, require_module


def test_a_missing_part_is_a_skip_at_home(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no tmpfs"):
        require(False, "no tmpfs")


def test_a_missing_part_is_a_failure_under_ci(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no_such_module"):
        require_module("no_such_module")


def test_what_is_there_goes_on(monkeypatch):
    monkeypatch.setenv("CI", "true")
    require(True, "never")
    assert require_module("json").__name__ == "json"
