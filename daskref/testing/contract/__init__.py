"""The contract of a connector, as rules that a program can check.

Read ``check`` first: it runs the rules on the connectors that a factory makes. The
rules are in ``bytes``, ``keys``, ``lifetimes`` and ``processes``; ``expectations``
words their failures.
"""

from daskref.testing.contract.check import RULES as RULES
from daskref.testing.contract.check import check_connector as check_connector

__all__ = ["RULES", "check_connector"]
