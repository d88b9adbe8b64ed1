"""Errors of stores in eight categories, and their texts.

Each driver has a function that returns the category of an error; the one for the
operating system is here.
"""

from __future__ import annotations

import errno
from enum import Enum
from typing import NamedTuple

from daskref.connectors.credentials import mask
from daskref.exceptions import ConnectorError, ConnectorUnavailableError


class Category(Enum):
    """The meaning of an error, and whether the store cannot be used at all."""

    #: Another attempt may succeed.
    UNREACHABLE = True, "{} cannot be reached"
    TIMED_OUT = True, "{} did not answer in time"
    CREDENTIALS = True, "{} was given no credentials that work"
    FORBIDDEN = True, "{} refused it"
    FULL = False, "{} is full"
    MISSING = True, "{} does not exist"
    #: It is of another kind, or damaged.
    UNSUITABLE = True, "{} cannot be used"
    #: Also errors of daskref.
    OTHER = False, "{} failed"


class Finding(NamedTuple):
    """The meaning of a driver's error."""

    category: Category
    #: What to do: sentences, without the last full stop.
    advice: str = ""
    subject: str = "the server"

    def error(
        self, connector: str, said: str, what: str = "", unavailable: bool = False
    ) -> ConnectorError:
        """Return daskref's error.

        Parameters
        ----------
        said
            The driver's text; credentials in its URLs are masked.
        what
            The operation that failed.
        unavailable
            Whether the store cannot be used without that operation.
        """
        always, text = self.category.value
        kind = ConnectorUnavailableError if always or unavailable else ConnectorError
        told = f"{text.format(self.subject)} ({mask(said)})"
        told = f"{told}. {self.advice}" if self.advice else told
        return kind(connector, f"{what}: {told}" if what else told)


#: Errors of a full disk, and of a process that gets no more memory.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM})
_SETTINGS = "in daskref.connector, or daskref.shm.root"
_OF_SYSTEM = {
    **dict.fromkeys(
        FULL, Finding(Category.FULL, f"Name a directory with more room {_SETTINGS}")
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        Finding(Category.FORBIDDEN, f"Name another directory {_SETTINGS}"),
    ),
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.ELOOP),
        Finding(Category.UNSUITABLE, "It is not a directory, or below a file"),
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        Finding(Category.OTHER, "Raise the limit on open files (ulimit -n)"),
    ),
    errno.ENOENT: Finding(Category.MISSING),
    errno.ETIMEDOUT: Finding(Category.TIMED_OUT),
}


def of_system(
    exc: OSError,
    connector: str,
    what: str,
    unavailable: bool = False,
    subject: str = "the directory",
) -> ConnectorError:
    """Return daskref's error for one of the operating system."""
    found = _OF_SYSTEM.get(exc.errno or 0, Finding(Category.OTHER))
    said = exc.strerror or str(exc)
    if subject != "the directory":
        found = found._replace(advice="")  # which is about directories
    return found._replace(subject=subject).error(connector, said, what, unavailable)
