"""What the scheduler tells a process to do, off the stream that tells it."""

from __future__ import annotations

import asyncio

import pytest

from daskref.background import Errands


def test_run_at_the_same_time() -> None:
    async def test() -> None:
        errands, first, second = Errands(), asyncio.Event(), asyncio.Event()

        async def wait_for_the_other() -> None:
            await second.wait()
            first.set()

        async def go() -> None:
            second.set()

        errands.run(wait_for_the_other())
        errands.run(go())
        assert len(errands) == 2
        await asyncio.wait_for(first.wait(), 5)
        await asyncio.sleep(0)
        assert not len(errands)

    asyncio.run(test())


def test_stopped() -> None:
    async def test() -> None:
        errands, ended = Errands(), []

        async def forever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        errands.run(forever())
        await asyncio.sleep(0)
        errands.stop()
        errands.stop()
        with pytest.raises(asyncio.CancelledError):
            await next(iter(errands._tasks))
        assert ended == [True]
        errands.run(forever())  # never begins, and nobody is warned of that
        await asyncio.sleep(0)
        assert not len(errands)
        assert ended == [True]

    asyncio.run(test())
