"""What goes wrong in stores, in eight categories, and how it is told.

Each driver has one function that finds the category of an error; the sentence is made
here.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from daskref.connectors.credentials import mask
from daskref.exceptions import ConnectorError, ConnectorUnavailableError


class Category(Enum):
    """Whether this process cannot use the store at all, and what the error means."""

    #: Another attempt may succeed.
    UNREACHABLE = True, "{} cannot be reached"
    TIMED_OUT = True, "{} did not answer in time"
    CREDENTIALS = True, "{} was given no credentials that work"
    FORBIDDEN = True, "{} refused it"
    FULL = False, "{} is full"
    MISSING = True, "{} does not exist"
    #: It answers, and is of another kind, or damaged.
    UNSUITABLE = True, "{} cannot be used"
    #: Also errors of daskref.
    OTHER = False, "{} failed"


class Finding(NamedTuple):
    """What an error of a driver means."""

    category: Category
    #: What to do, sentences without a full stop at their end.
    advice: str = ""
    #: What has failed.
    subject: str = "the server"

    def error(self, connector: str, said: str, what: str = "") -> ConnectorError:
        """Return our error.

        Parameters
        ----------
        said
            What the driver said; the credentials of URLs in it are masked.
        what
            What could not be done.
        """
        unavailable, text = self.category.value
        kind = ConnectorUnavailableError if unavailable else ConnectorError
        told = f"{text.format(self.subject)} ({mask(said)})"
        told = f"{told}. {self.advice}" if self.advice else told
        return kind(connector, f"{what}: {told}" if what else told)
