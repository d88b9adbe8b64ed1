"""Threads and executors: while there is work, over forks, while Python ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import distributed
import pytest

import daskref
from daskref.background import (
    Background,
    Executor,
    make_lock,
    make_rlock,
    run_apart,
)
from tests.support.common import wait_until
from tests.support.forks import forked


class TestBackground:
    def test_it_works_while_there_is_something_to_do(self) -> None:
        left = [1, 2, 3]

        def work() -> float | None:
            left.pop()
            return 0.0 if left else None

        background = Background(work, "test")
        assert not background.running
        for _ in range(2):
            assert background.call()
            wait_until(lambda: not background.running)
            assert not left
            left += [1, 2, 3]

    def test_a_call_is_never_lost(self) -> None:
        todo: list[int] = []
        done: list[int] = []

        def work() -> None:
            while todo:
                done.append(todo.pop())

        background = Background(work, "test")
        for i in range(2000):
            todo.append(i)
            background.call()
        wait_until(lambda: not background.running)
        assert sorted(done) == list(range(2000))

    def test_what_waits_is_woken_and_stopped(self) -> None:
        calls: list[threading.Thread] = []

        def work() -> float:
            calls.append(threading.current_thread())
            return float("inf")

        background = Background(work, "test")
        assert background.start(after=1000)
        assert background.start()
        background.wake()
        wait_until(lambda: len(calls) == 1)
        background.wake()
        wait_until(lambda: len(calls) == 2)
        background.stop(20)
        background.stop()
        assert not calls[0].is_alive()
        assert calls[0].daemon
        background.call()
        wait_until(lambda: len(calls) == 3)
        assert calls[2] is not calls[0]
        background.stop(20)

    def test_a_child_has_a_thread_of_its_own(self) -> None:
        worked = threading.Event()

        def work() -> float:
            worked.set()
            return float("inf")

        background = Background(work, "test")
        background.call()
        assert worked.wait(20)
        worked.clear()
        assert forked(lambda: not background.running and background.start()) == "fine"
        assert forked(lambda: background.call() and worked.wait(20)) == "fine"
        assert background.running
        background.stop(20)


class TestExecutor:
    def test_results_and_errors(self) -> None:
        executor = Executor(2, "test", idle=0.01)
        assert executor.submit(max, 1, 2).result(20) == 2
        with pytest.raises(ZeroDivisionError):
            executor.submit(lambda: 1 / 0).result(20)
        assert asyncio.run(executor.run(threading.current_thread)).name == "test"
        wait_until(lambda: not executor.threads, "the threads' end")
        assert executor.submit(max, 1, 2).result(20) == 2

    def test_as_many_threads_as_work(self) -> None:
        executor = Executor(3, "test")
        barrier = threading.Barrier(3)
        futures = [executor.submit(barrier.wait, 20) for _ in range(3)]
        assert sorted(future.result(20) for future in futures) == [0, 1, 2]
        for _ in range(5):
            executor.submit(int).result(20)
        assert executor.threads == 3
        executor.close()
        wait_until(lambda: not executor.threads)

    def test_closed(self) -> None:
        executor = Executor(1, "test")
        begun, let = threading.Event(), threading.Event()
        first = executor.submit(lambda: begun.set() or let.wait(20))
        second = executor.submit(int)
        assert begun.wait(20)
        executor.close(cancel=True)
        executor.close()
        with pytest.raises(RuntimeError, match="closed"):
            executor.submit(int)
        with pytest.raises(CancelledError):
            second.result(20)
        let.set()
        assert first.result(20)
        wait_until(lambda: not executor.threads)
        assert not executor._unfinished

    def test_what_was_taken_is_done_after_closing(self) -> None:
        executor = Executor(1, "test")
        futures = [executor.submit(str, i) for i in range(20)]
        executor.close()
        assert [future.result(20) for future in futures] == list(map(str, range(20)))

    def test_a_child_has_threads_of_its_own(self) -> None:
        executor = Executor(1, "test")
        begun, let = threading.Event(), threading.Event()
        first = executor.submit(lambda: begun.set() or let.wait(20))
        assert begun.wait(20)
        assert forked(lambda: executor.submit(int, "7").result(20) == 7) == "fine"
        let.set()
        assert first.result(20)
        executor.close()


@pytest.mark.parametrize("make", [make_lock, make_rlock])
def test_locks_are_free_in_a_child(make: Any) -> None:
    lock = make()
    held, let = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            let.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    assert forked(lambda: lock.acquire(timeout=20)) == "fine"
    let.set()
    thread.join(20)


def test_while_the_interpreter_ends() -> None:
    # Python 3.11 still starts threads then, later ones do not: it works either way.
    code = textwrap.dedent(
        """
        import atexit, concurrent.futures
        from daskref.background import Background, Executor
        executor, fresh = Executor(2, "test"), Executor(2, "test")
        executor.submit(int).result()
        background = Background(lambda: print("worked"), "test")

        @atexit.register
        def end():
            futures = executor.submit(int, "1"), fresh.submit(int, "2")
            print(*[future.result(20) for future in futures])
            background.call()
            background.stop(20)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "1 2"
    assert done.returncode == 0


def test_nothing_keeps_the_interpreter_from_ending() -> None:
    code = (
        "import threading\n"
        "from daskref.background import Executor\n"
        "executor = Executor(1, 'test')\n"
        "executor.submit(threading.Event().wait)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_lock_of_python_is_held_over_a_fork() -> None:
    """Before Python 3.12 ``cached_property`` held one, of all objects of a class."""
    package = Path(daskref.__file__).parent
    sources = [path.read_text() for path in package.rglob("*.py")]
    assert not any("cached_property" in source for source in sources)


class TestApart:
    def test_its_thread_has_ended_when_it_returns(self) -> None:
        def name() -> str:
            return threading.current_thread().name

        async def test() -> None:
            for _ in range(100):
                assert await run_apart(name) == "daskref-apart"
                assert "daskref-apart" not in [t.name for t in threading.enumerate()]
            with pytest.raises(ZeroDivisionError):
                await run_apart(lambda: 1 / 0)
            assert "daskref-apart" not in [t.name for t in threading.enumerate()]

        asyncio.run(test())

    def test_what_hangs_holds_up_nobody_else(self) -> None:
        release = threading.Event()

        async def test() -> None:
            many = [run_apart(release.wait) for _ in range(20)]
            hanging = [asyncio.ensure_future(each) for each in many]
            await asyncio.sleep(0)  # now they hang
            await run_apart(release.set)
            assert all(await asyncio.gather(*hanging))

        asyncio.run(test())

    def test_who_no_longer_waits_does_not_wait_for_the_thread(self) -> None:
        release = threading.Event()

        async def test() -> None:
            waiting = asyncio.ensure_future(run_apart(release.wait))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            release.set()

        asyncio.run(test())
        wait_until(
            lambda: "daskref-apart" not in [t.name for t in threading.enumerate()]
        )

    def test_a_client_that_is_closed_leaves_no_thread(self) -> None:
        with distributed.Client(processes=False, dashboard_address=":0") as plain:
            plain.submit(len, b"warm").result()
            for _ in range(3):
                before = set(threading.enumerate())
                with daskref.Client(plain.cluster) as client:
                    size = client.submit(len, bytes(2_000_000)).result()
                    assert size == 2_000_000
                left = set(threading.enumerate()) - before
                assert not [t for t in left if t.name == "daskref-apart"]
