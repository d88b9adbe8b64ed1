"""What every connector keeps to."""

from daskref.testing.contract.check import RULES as RULES
from daskref.testing.contract.check import check_connector as check_connector

__all__ = [
    "RULES",
    "check_connector",
]
