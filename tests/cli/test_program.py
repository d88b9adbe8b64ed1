"""All commands: usage, and how they end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import Any

import click
import pytest

from daskref import __version__
from daskref.cli import main
from daskref.cli._printing import (
    FAILED,
    INTERRUPTED,
    NO_ANSWER,
    OFF,
    CommandError,
    Progress,
    say,
    tell,
)
from daskref.cli.program import commands
from tests.support.common import wait_until
from tests.support.pages import ROOT


@pytest.mark.parametrize(
    ("argv", "status", "told"),
    [
        (["--version"], 0, __version__),
        (["--help"], 0, "sweep"),
        ([], 2, "Commands:"),
        (["dance"], 2, "No such command"),
        (["info", "--dance"], 2, "No such option"),
        (["run"], 2, "which program?"),
        (["run", "--help"], 0, "-m MODULE"),
        (["stats"], 2, "Missing argument 'ADDRESS'"),
        (["stats", "nowhere"], 2, "missing port number"),
        (["stats", "http://there:80"], 2, "unknown address scheme"),
        (["stats", "there:8786", "--timeout", "long"], 2, "'long' is not"),
        (["stats", "there:8786", "--tls-cert", "/no/such"], 2, "does not exist"),
        (["objects", "there:8786", "--sort", "beauty"], 2, "beauty"),
        (["objects", "there:8786", "--where", "beauty=1"], 2, "FIELD=PATTERN"),
        (["objects", "there:8786", "--larger", "much"], 2, "'much' is not"),
        (["top", "there:8786", "--once", "--count", "2"], 2, "give one of them"),
    ],
)
def test_usage(capsys: Any, argv: list[str], status: int, told: str) -> None:
    assert main(argv) == status
    assert told in "".join(capsys.readouterr())


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        ["-c", "import sys; from daskref.cli import main; sys.exit(main())"],
        ["-m", "daskref.cli"],
    ],
)
def test_as_a_program(start: list[str]) -> None:
    command = [sys.executable, *start, "info"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "works" in done.stdout
    assert not done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_what_waits_and_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "daskref.cli", "stats", address]
        with subprocess.Popen(
            [*command, "--timeout", "100 s"], stderr=subprocess.PIPE, text=True
        ) as running:
            assert running.stderr is not None
            told = running.stderr.readline()
            running.send_signal(signal.SIGINT)
            _, rest = running.communicate(timeout=60)
    assert told == f"… connecting to the scheduler at tcp://{address}\n"
    assert (running.returncode, rest.strip()) == (130, "")


def test_all_commands_options_and_exit_codes_are_documented() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    for name, command in commands.commands.items():
        assert f"`daskref {name}" in page
        for param in command.params:
            if isinstance(param, click.Option):
                assert all(f"`{option}" in page for option in param.opts), param.opts
    for code in (0, FAILED, 2, NO_ANSWER, OFF, INTERRUPTED):
        assert f"\n| {code} | " in page


def test_the_library_does_not_load_the_command_line() -> None:
    code = (
        "import sys, daskref, distributed; daskref.Client, daskref.enable; "
        "print([name for name in sys.modules if 'cli' in name.split('.')])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nothing_that_is_printed_commands_the_terminal(capsys: Any) -> None:
    say("a\x1b[31m\nb", "c\u202e")
    tell("d\x07\ne")
    CommandError("f\x9b").show()
    out, err = capsys.readouterr()
    assert out == "a\\x1b[31m\\nb\nc\\u202e\n"
    assert err == "d\\x07 e\nerror: f\\x9b\n"


def test_what_takes_long_is_told_once_and_not_before(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("daskref.cli._printing._LOOK", 0.001)
    monkeypatch.setattr("daskref.cli._printing.tell", told.append)
    with Progress() as shown:
        shown.at("waiting")
        shown._show()
        assert not told
        monkeypatch.setattr("daskref.cli._printing._PATIENCE", 0.0)
        wait_until(lambda: told, "the first line")
        shown.at("")
        shown._show()
        shown.at("waiting for more")
        wait_until(lambda: len(told) == 2, "the second line")
        shown._show()
    assert told == ["… waiting", "… waiting for more"]


def test_a_full_disk_is_told_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "daskref.cli", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "error: there is no space left for the output\n"
