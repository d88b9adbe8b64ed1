"""Sites of tests: the scheduler's state machine, without Dask and without hosts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from daskref.scheduler import _events as events
from daskref.scheduler._events import Holder
from daskref.scheduler._state import State

HOSTS = {name: name * 32 for name in "abcdef"}
A, B, C = HOSTS["a"], HOSTS["b"], HOSTS["c"]
HOME = "0" * 32
KEY = ("1" * 32, 8, A)
OTHER = ("2" * 32, 8, A)


class Site:
    """A state machine, hosts that say what real ones would, and a clock."""

    def __init__(self, lazily: bool = False, home: str = HOME, fan_out: int = 2):
        self.state = State(home, fan_out, lazily)
        self.home = home
        self.now = 1000.0
        #: To whom, and what.
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.deleted: list[Any] = []
        self.evicted_here: list[Any] = []
        self.recomputed: list[Any] = []
        self.warnings: list[str] = []
        self.logged: list[dict[str, Any]] = []
        self.answers: dict[tuple[str, Any], dict[str, Any]] = {}
        self.last_answers: dict[tuple[str, Any], dict[str, Any]] = {}
        self.timers: list[events.Later] = []

    # What happens

    def feed(self, event: events.Event) -> list[events.Instruction]:
        found = self.state.handle(event, self.now)
        for instruction in found:
            self._carry_out(instruction)
        return found

    def _carry_out(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.Delete(keys, here, elsewhere):
                self.deleted += keys
                self.evicted_here += here
                for to, objects in elsewhere:
                    message = {"op": "daskref-evict", "objects": list(objects)}
                    self.sent += [(to[0], message)] if to else []
            case events.Send(to, message):
                self.sent += [(to[0], message)] if to else []
            case events.Answer(process, key, answer, last):
                answers = self.last_answers if last else self.answers
                assert (process, key) not in answers, "answered twice"
                answers[process, key] = answer
            case events.Recompute(tasks):
                self.recomputed += tasks
            case events.Later():
                self.timers.append(instruction)
            case events.Log(event):
                self.logged.append(event)
            case events.Warn(text):
                self.warnings.append(text)

    def pass_time(self, seconds: float) -> None:
        """Let events happen that were put off until then."""
        self.now += seconds
        due = [each for each in self.timers if each.when <= self.now]
        self.timers = [each for each in self.timers if each.when > self.now]
        for each in due:
            self.feed(each.event)

    # Processes

    def worker(
        self, name: str, host: str, names: Iterable[str] = (), serves: bool = True
    ) -> None:
        endpoint = f"tcp://{name}:1" if serves else None
        hostname = f"the host of {name}"
        self.feed(events.Joined(name, "worker", host, hostname, endpoint, tuple(names)))

    def client(self, name: str, host: str) -> None:
        self.feed(events.Joined(name, "client", host, f"the host of {name}"))

    def stop(self, name: str) -> None:
        self.feed(events.Left(name))

    def told(self, op: str) -> list[tuple[str, dict[str, Any]]]:
        """Return who was told something, and what else; it is forgotten then."""
        found = [
            (who, {name: each for name, each in message.items() if name != "op"})
            for who, message in self.sent
            if message["op"] == op
        ]
        self.sent[:] = [each for each in self.sent if each[1]["op"] != op]
        return found

    # Objects

    def hold(self, kind: str, name: Any, key: Any = KEY, **more: Any) -> None:
        self.feed(events.Held(Holder(kind, name), ((key, key[1]),), **more))

    def release(self, kind: str, name: Any, *keys: Any) -> None:
        self.feed(events.Released(Holder(kind, name), keys or None))

    def put(self, key: Any, kind: str = "client", name: Any = "client") -> None:
        self.feed(events.Put(Holder(kind, name), key, key[1]))

    def result(self, task: Any, key: Any = KEY, computable: bool = True) -> None:
        self.feed(events.Put(Holder("result", task), key, key[1], computable))

    def copies(self, key: Any = KEY) -> list[str]:
        obj = self.state.objects.get(key)
        return [] if obj is None else list(obj.copies)

    def lost(self) -> list[Any]:
        return [key for key, obj in self.state.objects.items() if obj.lost]

    # Transfers

    def ask(self, process: str, key: Any = KEY, **more: Any) -> Any:
        """Ask for a source; return the answer, ``None`` if it is to come."""
        self.feed(events.SourceAsked(process, key, **more))
        if more.get("last"):
            return self.last_answers.pop((process, key))
        return self.answers.pop((process, key), None)

    def source(self, process: str, key: Any = KEY, **more: Any) -> Any:
        """Ask for a source, and wait as long as one does that is not patient."""
        answer = self.ask(process, key, **more)
        if answer is None:
            timer = self.timers.pop()
            assert isinstance(timer.event, events.PatienceEnded)
            self.feed(timer.event)
            answer = self.answers.pop((process, key))
        return answer

    def fetched(self, process: str, copied: bool = True, key: Any = KEY) -> None:
        self.feed(events.Fetched(process, key, copied))

    def supplied(self, client: str, host: str | None, key: Any = KEY) -> None:
        self.feed(events.Supplied(client, key, host))

    def reconcile(self) -> None:
        self.feed(events.Reconciled(7.0))

    def deleted_here(self, *keys: Any, failed: tuple[Any, ...] = ()) -> None:
        self.feed(events.Deleted(keys, failed))


def check(state: State) -> None:
    """Check what is always true of a state, and that its indexes say the same."""
    objects, table = state.objects, state._table
    holders = {(h, k) for k, obj in objects.items() for h in obj.holders}
    assert holders == {(h, k) for h, keys in table.held.items() for k in keys}
    assert all(table.held.values())
    hosts = state.hosts.hosts
    copies = {(h, k) for k, obj in objects.items() for h in obj.copies if h in hosts}
    assert copies == {(h, k) for h, host in hosts.items() for k in host.keys}
    where = {(p, host) for host, each in hosts.items() for p in each.processes}
    assert where == {(p, each.host) for p, each in state.hosts.processes.items()}
    assert all(each.processes for each in hosts.values())
    assert set(table.moving) == {key for key, obj in objects.items() if obj.is_moving}
    assert set(table.lost) == {key for key, obj in objects.items() if obj.lost}
    assert not table._touched
    for obj in objects.values():
        # of one there is nothing to know of, nothing is known
        assert obj.holders or obj.copies or obj.is_moving or obj.lost or obj.deletion
        assert not obj.readers.keys() & obj.copies.keys()
        assert not obj.readers.keys() & obj.grants.keys()
        for host, grant in obj.grants.items():
            assert grant.source != host, "no host is its own source"
            assert state.hosts.host_of(grant.process) == host
        for host, reader in obj.readers.items():
            assert reader.processes
            assert all(state.hosts.host_of(p) == host for p in reader.processes)
        if obj.sought is not None:
            assert state.hosts.host_of(obj.sought.client) is not None
    workers = [p for p, each in state.hosts.processes.items() if each.role == "worker"]
    assert state.starting <= set(workers)
