"""For tests of connectors and of deployments. Needs no test framework.

:func:`check_connector` checks a connector against the contract: folder ``contract``.
Hosts are made of Linux namespaces: read ``hosts`` (a network of them), then ``host``
(one, with its link) and ``namespaces``. ``clusters`` runs Dask on them, with
``processes``, ``agents`` and ``certificates``.
"""

from daskref.testing.contract.check import RULES as RULES
from daskref.testing.contract.check import check_connector as check_connector

__all__ = ["RULES", "check_connector"]
