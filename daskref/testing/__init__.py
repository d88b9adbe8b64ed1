"""What helps to test connectors and deployments. Needs no test framework.

:func:`check_connector` checks a connector. :mod:`daskref.testing.hosts` makes hosts out
of Linux namespaces, :mod:`daskref.testing.clusters` runs Dask on them.
"""

from daskref.testing.contract.check import RULES as RULES
from daskref.testing.contract.check import check_connector as check_connector

__all__ = ["RULES", "check_connector"]
