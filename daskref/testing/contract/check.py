"""Check that a connector keeps the contract. Needs no test framework.

Known limits: threads are checked by trying, so a race may go unnoticed; that another
host sees the objects is not checked at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from daskref.connectors.adapter import adapt
from daskref.connectors.base import Connector
from daskref.testing.contract import bytes as rules_bytes
from daskref.testing.contract import keys as rules_keys
from daskref.testing.contract import lifetimes as rules_lifetimes
from daskref.testing.contract import processes as rules_processes


def check_connector(
    make: Callable[[], Connector], *, relax: Collection[str] = frozenset()
) -> None:
    """Check a connector against the contract of :class:`~daskref.connectors.Connector`.

    Parameters
    ----------
    make
        () -> a new connector, with a store that no other test uses. It is called once
        per rule; the check closes the connector. One that is no ``Connector`` is
        checked as :class:`daskref.Store` uses it.
    relax
        Names of rules, from :data:`RULES`, not to check.

    Raises
    ------
    AssertionError
        If the connector breaks a rule; the message begins with the rule's name.
    ValueError
        If *relax* names a rule that does not exist.

    Examples
    --------
    >>> from daskref.connectors import LocalConnector
    >>> check_connector(LocalConnector, relax={"processes"})
    """
    if unknown := sorted(set(relax) - RULES.keys()):
        raise ValueError(f"no such rules: {unknown}; there are {sorted(RULES)}")
    for name, rule in RULES.items():
        if name in relax:
            continue
        connector = adapt(make())
        try:
            rule(connector)
        except AssertionError as exc:
            raise AssertionError(f"{name}: {exc}") from exc
        finally:
            connector.close()


#: The rules by name, in the order in which :func:`check_connector` checks them.
RULES: dict[str, Callable[[Connector], None]] = {
    "round-trips": rules_bytes.round_trips,
    "frames": rules_bytes.frames,
    "keeps-no-frame": rules_bytes.keeps_no_frame,
    "keys": rules_keys.keys,
    "missing": rules_keys.missing,
    "plain-keys": rules_keys.plain_keys,
    "foreign-keys": rules_keys.foreign_keys,
    "views-outlive": rules_bytes.views_outlive,
    "private": rules_bytes.private,
    "closing": rules_lifetimes.closing,
    "configuration": rules_processes.configuration,
    "processes": rules_processes.processes,
    "threads": rules_processes.threads,
    "batches": rules_keys.batches,
    "takes": rules_processes.takes,
    "deferred": rules_keys.defers,
    "links": rules_lifetimes.links,
    "leases": rules_lifetimes.leases,
    "usage": rules_lifetimes.counts,
}
