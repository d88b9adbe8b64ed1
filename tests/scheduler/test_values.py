"""What the scheduler sizes tasks with stored input by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from daskref.scheduler._values import Values


class FakeScheduler(SimpleNamespace):
    def _add_to_processing(self, *args: Any) -> None:
        """Do what Dask does."""


def test_one_that_goes_leaves_what_the_next_has_taken_over() -> None:
    def finished(**message: Any) -> None:
        """Do what Dask does."""

    scheduler: Any = FakeScheduler(stream_handlers={"task-finished": finished})
    first = Values(scheduler, print)
    first.close()
    assert scheduler.stream_handlers["task-finished"] is finished
    second = Values(scheduler, print)
    first.close()
    assert scheduler._add_to_processing == second._add_to_processing
    assert scheduler.stream_handlers["task-finished"] == second._finished
    second.close()
    second.close()
    assert "_add_to_processing" not in vars(scheduler)
    assert scheduler.stream_handlers["task-finished"] is finished
