"""What becomes of objects that a host has taken with it.

Dask computes results again, clients send again what they hold. Readers of anything else
are told which host is gone.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=============================================  =====================================
name                                           what for
=============================================  =====================================
``Scheduler.transitions``                      results that are to be computed again
=============================================  =====================================
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from daskref.connectors.base import Key
from daskref.scheduler._holders import Holders
from daskref.scheduler._locations import Locations

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Seconds for a client to send an object, before another one is asked.
_SUPPLY = 300.0
#: How many lost objects are remembered, to say what became of them.
_REMEMBERED = 100_000


class _Sought(NamedTuple):
    #: Whom we asked to send it, and when.
    client: str
    since: float
    #: Whether anybody held it then; else it lives by a lease.
    held: bool


class _Lost(NamedTuple):
    reason: str
    #: Whether it was the result of a task.
    recomputed: bool


class Losses:
    """Objects of a session that no host serves, and who could bring them back.

    Parameters
    ----------
    scheduler
        Dask's.
    locations
        Which hosts have what.
    holders
        Who holds what.
    tell
        ``(client, message) -> None``.
    evict
        ``(keys) -> None``: have objects deleted wherever they are.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop.
    """

    _lost: OrderedDict[Key, _Lost]
    _sought: dict[Key, _Sought]
    _refused: dict[Key, set[str]]

    def __init__(
        self,
        scheduler: Scheduler,
        locations: Locations,
        holders: Holders,
        tell: Callable[[str, dict[str, Any]], None],
        evict: Callable[[list[Key]], None],
    ) -> None:
        self._scheduler = scheduler
        self._locations = locations
        self._holders = holders
        self._tell = tell
        self._evict = evict
        self._lost = OrderedDict()
        #: Object -> the client that was asked to send it.
        self._sought = {}
        #: Clients that could not send it.
        self._refused = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._lost

    def __len__(self) -> int:
        return len(self._lost)

    def found(self, key: Key) -> None:
        """Take note that a host has an object after all; silent if that is no news."""
        self._lost.pop(key, None)

    def left(self, process: str) -> None:
        """Ask others for what a client was asked for that has left."""
        for key in [k for k, each in self._sought.items() if each.client == process]:
            del self._sought[key]
            self.seek(key)

    def seek_all(self) -> None:
        """Ask clients for all that nobody serves, now that there is somebody to do so.

        Those that could not send it may have had nowhere to send it.
        """
        locations = self._locations
        unserved = [key for key in locations if not locations.is_served(key)]
        for key in unserved + list(self._lost):
            self._refused.pop(key, None)
            self.seek(key)

    def tidy(self) -> None:
        """Forget who refused what nobody holds any more."""
        for key in [key for key in self._refused if key not in self._holders]:
            del self._refused[key]

    def what_became(self, key: Key) -> dict[str, Any]:
        """Tell who gives up why; have a result computed again that nobody gives."""
        lost = self._lost.get(key)
        if lost is None:
            hosts = [host[:8] for host in self._locations.copies(key) or [key[2]]]
            lost = _Lost(
                f"{key[0]} of {key[1]:,} B is on host {', '.join(hosts)}, which does "
                "not give it, and no client holds it any more",
                self._recompute([key]),
            )
            if lost.recomputed:
                self._remember(key, lost)
        return {
            "status": "lost",
            "reason": lost.reason,
            "recomputed": lost.recomputed,
        }

    def lose(self, hostname: str, keys: list[Key]) -> None:
        """See to objects whose last copy is gone with its host."""
        for key in keys:
            reason = (
                f"{key[0]} of {key[1]:,} B was on host {hostname}, which is gone, and "
                "no client holds it any more"
            )
            if self._holders.who_hold(key):
                self._remember(key, _Lost(reason, False))
                if self._recompute([key]):
                    self._remember(key, _Lost(reason, True))
                else:
                    self.seek(key)
        if keys:
            logger.warning(
                "Host %s is gone, and with it the only copies of %d objects: results "
                "are computed again, clients send again what they hold",
                hostname,
                len(keys),
            )

    def _remember(self, key: Key, lost: _Lost) -> None:
        self._lost[key] = lost
        while len(self._lost) > _REMEMBERED:
            self._lost.popitem(last=False)

    def _recompute(self, keys: Iterable[Key]) -> bool:
        """Have Dask compute again the results that objects are; whether it does any."""
        again, found = {}, False
        for holder in {each for key in keys for each in self._holders.who_hold(key)}:
            ts = self._scheduler.tasks.get(holder.name)
            if holder.kind not in ("result", "lost") or ts is None:
                continue
            if ts.run_spec is None:  # it was scattered: nobody can make it
                continue
            found = True
            # What is only "lost" is being computed again, or has been.
            if holder.kind == "result" and ts.state == "memory":
                again[holder.name] = "released"
        if again:
            self._scheduler.transitions(
                again, stimulus_id=f"daskref-lost-{time.time()}"
            )
        return found

    def seek(self, key: Key) -> bool:
        """Ask a client to send an object that nobody serves, if one can.

        Returns
        -------
        bool
            Whether one was asked, now or before, and may still send it.
        """
        if sought := self._sought.get(key):
            if time.monotonic() < sought.since + _SUPPLY:
                return True
            del self._sought[key]
            self._refused.setdefault(key, set()).add(sought.client)
        holding = [
            str(holder.name)
            for holder in self._holders.who_hold(key)
            if holder.kind == "client"
        ]
        beside = [p for h in self._locations.copies(key) for p in self._visitors(h)]
        for client in dict.fromkeys(holding + beside):
            if client in self._refused.get(key, ()):
                continue
            if self._locations.host_of(client) is None:
                continue
            held = key in self._holders
            self._sought[key] = _Sought(client, time.monotonic(), held)
            self._tell(client, {"op": "daskref-wanted", "object": key})
            return True
        return False

    def _visitors(self, host: str) -> list[str]:
        clients = self._scheduler.clients
        return [p for p in self._locations.processes(host) if p in clients]

    def on_supplied(self, client: str, object: Key, host: str | None) -> None:
        """Take note of where a client has sent an object that was wanted.

        Parameters
        ----------
        client
            Who it was. If another one was asked by now, its word counts as well.
        object
            What it has sent.
        host
            Where; ``None``: it could not.
        """
        key = tuple(object)
        sought = self._sought.get(key)
        if sought is not None and sought.client != client:
            sought = None  # another one was asked instead, by now
        if sought is not None:
            del self._sought[key]
        if host is not None:
            self._lost.pop(key, None)
            self._locations.add(key, host)
            if sought is not None and sought.held and key not in self._holders:
                self._evict([key])  # released meanwhile
        elif sought is not None:
            self._refused.setdefault(key, set()).add(client)
            self.seek(key)
