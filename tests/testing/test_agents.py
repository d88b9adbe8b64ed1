"""Agents: they call what they are told, keep what they know, and end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daskref.testing.agents import (
    Agent,
    AgentError,
    first_to_end,
    get_name,
    set_name,
)
from daskref.testing.hosts import Network
from tests.support.common import wait_until
from tests.support.namespaces import ENVIRONMENT, require_hosts

pytestmark = pytest.mark.slow


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as agent:
        yield agent


def fail(state: dict[str, Any]) -> None:
    raise LookupError("this is said")


def die(state: dict[str, Any]) -> None:
    os._exit(3)


def own_id(state: dict[str, Any]) -> int:
    return os.getpid()


def own_name(state: dict[str, Any]) -> str:
    return socket.gethostname()


def wait_for(state: dict[str, Any], path: str) -> str:
    wait_until(lambda: os.path.exists(path), timeout=20)
    return path


def write(state: dict[str, Any]) -> None:
    print("what is printed comes between no answers")


def test_state_is_kept(agent: Agent) -> None:
    assert agent.call(get_name) is None
    agent.call(set_name, "alpha")
    agent.call(write)
    assert agent.call(get_name) == "alpha"


def test_what_fails_is_told_and_the_agent_goes_on(agent: Agent) -> None:
    with pytest.raises(AgentError, match=r"fail failed .* LookupError\('this is said"):
        agent.call(fail)
    assert agent.call(get_name) is None


def test_an_agent_that_dies_is_told(agent: Agent) -> None:
    with pytest.raises(AgentError, match="is gone"):
        agent.call(die)
    with pytest.raises(AgentError, match="is gone"):
        agent.call(get_name)


def die_and_leave_a_child(state: dict[str, Any], path: str) -> None:
    if os.fork() == 0:
        wait_for(state, path)
        os._exit(0)
    os._exit(3)


def test_an_agent_that_dies_is_told_whatever_it_leaves(
    agent: Agent, tmp_path: Path
) -> None:
    end = tmp_path / "end"
    agent.begin(die_and_leave_a_child, str(end))
    try:
        assert first_to_end([agent], timeout=20) == [agent]
        with pytest.raises(AgentError, match="is gone"):
            agent.end(timeout=20)
    finally:
        end.touch()


def test_a_call_that_does_not_end(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "go"
    agent.begin(wait_for, str(path))
    with pytest.raises(AgentError, match="has not answered"):
        agent.end(timeout=0.1)
    path.touch()


def test_the_first_of_several(agent: Agent, tmp_path: Path) -> None:
    with Agent() as other:
        for each, name in ((agent, "a"), (other, "b")):
            each.begin(wait_for, str(tmp_path / name))
        with pytest.raises(AgentError, match="none of"):
            first_to_end([agent, other], timeout=0.1)
        (tmp_path / "b").touch()
        assert first_to_end([agent, other]) == [other]
        assert other.end() == str(tmp_path / "b")
        (tmp_path / "a").touch()
        assert first_to_end([agent]) == [agent]
        agent.end()


def test_closing_ends_the_process_and_is_silent_again() -> None:
    agent = Agent()
    pid = agent.call(own_id)
    agent.close()
    assert not os.path.exists(f"/proc/{pid}")
    agent.close()
    with pytest.raises(AgentError):
        agent.call(get_name)


def test_on_a_host() -> None:
    require_hosts()
    with Network() as network, Agent(network.add("alpha")) as agent:
        assert repr(agent) == "<Agent on alpha>"
        assert agent.call(own_name) == "alpha"
        network["alpha"].die()
        with pytest.raises(AgentError, match="is gone"):
            agent.call(own_id)


def test_it_ends_with_who_made_it() -> None:
    code = (
        "import os; from daskref.testing.agents import Agent;"
        "from tests.testing.test_agents import own_id;"
        "print(Agent().call(own_id), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        timeout=60,
    )
    pid = int(done.stdout)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the agent gone")
