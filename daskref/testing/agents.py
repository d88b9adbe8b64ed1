"""A process on a host that calls functions, one after another, and keeps state."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from daskref.testing.host import Host
from daskref.testing.processes import die_with_parent, environment, wait_or_kill

#: Seconds for an agent to be ready, and for one to end by itself.
_PATIENCE = 60.0


class AgentError(AssertionError):
    """A function failed in an agent, or the agent died; the message says why."""


class Agent:
    """A process on a host that calls functions, which share a dict as their state.

    Parameters
    ----------
    host
        The host to run on; ``None`` for this process's own namespaces.
    env
        On top of this process's environment.

    Notes
    -----
    The functions' output goes to the standard error of this process. The agent ends
    when it is closed, when its host is, or when this process ends.

    Examples
    --------
    >>> with Agent() as agent:
    ...     agent.call(set_name, "alpha")
    ...     agent.call(get_name)
    'alpha'
    """

    _tasks: Connection
    _answers: Connection
    #: Readable once the process has ended.
    _sentinel: int

    def __init__(
        self, host: Host | None = None, *, env: dict[str, str] | None = None
    ) -> None:
        self.name = "this host" if host is None else host.name
        tasks, self._tasks = _pipe()
        self._answers, answers = _pipe()
        self._popen = subprocess.Popen(
            [*(host.prefix if host else ()), sys.executable, "-m", __name__],
            stdin=tasks.fileno(),
            stdout=answers.fileno(),
            env={**os.environ, **environment(), **(env or {})},
            preexec_fn=die_with_parent,
        )
        tasks.close()
        answers.close()
        # A process that it has forked may keep the pipe open when it dies.
        self._sentinel = os.pidfd_open(self._popen.pid)
        try:
            self._receive(_PATIENCE)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Agent on {self.name}>"

    def call(self, func: Callable[..., Any], *args: Any, timeout: float = 600.0) -> Any:
        """Return the result of ``func(state, *args)`` in the agent.

        Parameters
        ----------
        func
            At the top of a module that the agent can import.
        *args
            Any that pickle.
        timeout
            In seconds.

        Raises
        ------
        AgentError
            If the function fails, does not end in time, or the agent is gone.
        """
        self.begin(func, *args)
        return self.end(timeout)

    def begin(self, func: Callable[..., Any], *args: Any) -> None:
        """Begin a call; call :meth:`end` before the next one."""
        try:
            self._tasks.send((func, args))
        except OSError as exc:
            raise AgentError(f"{self!r} is gone: {exc.strerror}") from exc

    def end(self, timeout: float = 600.0) -> Any:
        """Return the result of the call that was begun; see :meth:`call`."""
        return self._receive(timeout)

    def _receive(self, timeout: float) -> Any:
        try:
            ready = wait([self._answers, self._sentinel], timeout)
            if not ready:
                raise AgentError(f"{self!r} has not answered within {timeout:g} s")
            if self._answers not in ready:
                raise AgentError(f"{self!r} is gone")
            error, result = self._answers.recv()
        except (EOFError, OSError) as exc:
            raise AgentError(f"{self!r} is gone") from exc
        if error:
            raise AgentError(f"in {self!r}: {error}")
        return result

    def close(self) -> None:
        """End the process and wait for it. Idempotent."""
        self._tasks.close()
        self._answers.close()
        wait_or_kill(self._popen, _PATIENCE)
        if self._sentinel >= 0:
            os.close(self._sentinel)
            self._sentinel = -1


def first_to_end(agents: Sequence[Agent], timeout: float = 600.0) -> list[Agent]:
    """Wait for any of the calls that were begun; return agents that answered, or died.

    Raises AgentError if none has in time.
    """
    signs = [sign for each in agents for sign in (each._answers, each._sentinel)]
    ready = wait(signs, timeout)
    if not ready:
        raise AgentError(f"none of {list(agents)} has answered within {timeout:g} s")
    return [each for each in agents if {each._answers, each._sentinel} & {*ready}]


def _pipe() -> tuple[Connection, Connection]:
    reading, writing = os.pipe()
    return Connection(reading, writable=False), Connection(writing, readable=False)


def set_name(state: dict[str, Any], name: str) -> None:
    """Set a name: an example of a function that an agent calls."""
    state["name"] = name


def get_name(state: dict[str, Any]) -> Any:
    """Return the name."""
    return state.get("name")


def _serve() -> None:
    tasks = Connection(os.dup(0), writable=False)
    answers = Connection(os.dup(1), readable=False)
    # functions may print: not between the answers
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    state: dict[str, Any] = {}
    answers.send(("", None))
    while True:
        try:
            func, args = tasks.recv()
        except EOFError:
            return
        begin = time.perf_counter()
        try:
            answer = ("", func(state, *args))
        except Exception as exc:
            seconds = time.perf_counter() - begin
            answer = (f"{func.__name__} failed after {seconds:.1f} s: {exc!r}", None)
        answers.send(answer)


if __name__ == "__main__":
    _serve()
