"""Exit codes, options and output that all commands share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from daskref.background import Background
from daskref.client.tables import printable
from daskref.exceptions import ConfigError
from daskref.units import Reader

F = TypeVar("F", bound=Callable[..., Any])

#: Exit codes, beside 0 and click's own 2 for wrong usage.
FAILED, NO_ANSWER, OFF, INTERRUPTED = 1, 3, 4, 130
#: Seconds after which an activity is shown, and between two checks of that.
_PATIENCE, _LOOK = 2.0, 0.2


class CommandError(click.ClickException):
    """The end of a command: one line of text, and an exit code."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status

    def show(self, file: Any = None) -> None:
        """Print the error on stderr."""
        tell(f"error: {self.message}")


def quantity(parse: Reader) -> Callable[[Any, Any, Any], Any]:
    """Return a click callback for an option with a unit, read as a setting is."""

    def read(ctx: Any, param: Any, value: Any) -> Any:
        try:
            return parse(value, param.name)
        except ConfigError as exc:
            text = f"{value!r} is not {exc.expected}"
            raise click.BadParameter(text, ctx, param) from None

    return read


def json_option(function: F) -> F:
    """Add ``--json``."""
    add = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    return add(function)


def say(*lines: str) -> None:
    """Print lines on stdout, with control characters escaped."""
    for line in lines:
        click.echo(printable(line))


def say_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    click.echo(json.dumps(value, default=str))


def tell(text: str) -> None:
    """Print one line on stderr, with control characters escaped."""
    click.echo(printable(" ".join(text.splitlines())), err=True)


class Progress:
    """Show the current activity on stderr once it has taken two seconds."""

    _stage: str
    _since: float

    def __init__(self) -> None:
        self._stage = self._told = ""
        self._since = 0.0
        self._thread = Background(self._show, "daskref-progress")

    def at(self, stage: str) -> None:
        """Begin an activity, as in ``"asking 3 workers"``; an empty text: none."""
        if not self._stage:
            self._since = time.monotonic()
        self._stage = stage

    def _show(self) -> float:
        stage, since = self._stage, self._since
        if stage and stage != self._told and time.monotonic() - since >= _PATIENCE:
            self._told = stage
            tell(f"… {stage}")
        return _LOOK

    def __enter__(self) -> Progress:
        self._thread.start(after=_LOOK)
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.stop(1.0)


@contextmanager
def progress(stage: str) -> Iterator[None]:
    """Show one activity during the block."""
    with Progress() as shown:
        shown.at(stage)
        yield
