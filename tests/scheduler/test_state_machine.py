"""Whatever happens in whatever order: what is always true of the scheduler's state."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from daskref.scheduler import _events as events
from daskref.scheduler._events import Holder
from daskref.scheduler._state import FORGOTTEN, LOST, SCHEDULER
from daskref.scheduler._transfers import PATIENCE, SLOW
from tests.support.sites import HOME, HOSTS, Site, check

pytestmark = pytest.mark.slow

#: Identities: the scheduler's host has processes, too.
PLACES = [HOME, HOSTS["a"], HOSTS["b"], HOSTS["c"]]
WORKERS = {f"worker-{n}": PLACES[n % 4] for n in range(6)}
CLIENTS = {f"client-{n}": PLACES[n % 4] for n in range(1, 3)}
TASKS = ["t", "u"]
KEYS = [(f"{n}" * 32, n, PLACES[n % 4]) for n in range(1, 4)]

keys = st.sampled_from(KEYS)
tasks = st.sampled_from(TASKS)
processes = st.sampled_from([*WORKERS, *CLIENTS])
holders = st.one_of(
    st.builds(Holder, st.just("key"), tasks),
    st.builds(Holder, st.just("result"), tasks),
    st.builds(Holder, st.just("client"), st.sampled_from([*CLIENTS])),
)


class Scheduling(RuleBasedStateMachine):
    """A site, and a simple model of what its state has to do."""

    @initialize(
        is_apart=st.sampled_from([True, True, True, False]),
        lazily=st.booleans(),
        fan_out=st.sampled_from([1, 2]),
        there=st.lists(processes, unique=True),
    )
    def begin(self, is_apart: bool, lazily: bool, fan_out: int, there: Any) -> None:
        self.site = Site(lazily, HOME if is_apart else "", fan_out)
        self.fan_out = fan_out
        #: Who waits for an answer.
        self.asking: set[Any] = set()
        self.deleting: list[Any] = []
        for process in there if is_apart else ():
            self.join(process, None, True, [])

    @property
    def state(self) -> Any:
        return self.site.state

    @property
    def is_apart(self) -> bool:
        return bool(self.state.home)

    def feed(self, event: events.Event) -> list[events.Instruction]:
        objects = self.state.objects.items()
        held = {key for key, obj in objects if obj.holders}
        copies = {key: set(obj.copies) for key, obj in objects}
        found = self.site.feed(event)
        kept = {key for key, obj in self.state.objects.items() if obj.holders}
        deleted = self.check_deleted(event, found, copies)
        assert not kept & set(deleted), "an object with a holder is deleted"
        # one without any once, wherever it is
        assert held - kept <= set(deleted)
        assert max(Counter(deleted).values(), default=1) == 1
        if not isinstance(event, (events.ReadOnce, events.Supplied)):
            assert set(deleted) <= held - kept
        answers = self.site.answers
        assert answers.keys() <= self.asking, "an answer that nobody waits for"
        self.asking -= answers.keys()
        for (process, _), answer in answers.items():
            if answer["status"] == "found":
                assert answer["host"] != self.state.hosts.host_of(process)
                assert answer["endpoints"]
        answers.clear()
        return found

    def check_deleted(self, event: Any, found: Any, copies: dict[Any, set[str]]) -> Any:
        """Return what is deleted; check that it is where there are copies."""
        deleted: list[Any] = []
        for each in found:
            if not isinstance(each, events.Delete):
                continue
            deleted += each.keys
            self.deleting += each.here
            if not each.keys or not self.is_apart:
                assert not each.elsewhere
                continue
            told = {(HOME, key) for key in each.here}
            for to, there in each.elsewhere:
                hosts = {self.state.hosts.host_of(process) for process in to}
                assert len(hosts) <= 1
                told |= {(host, key) for host in hosts for key in there}
            there = {(h, k) for k in each.keys for h in copies.get(k) or {k[2]}}
            if isinstance(event, events.Supplied):
                there |= {(event.host, k) for k in each.keys}
            alive = self.state.hosts.hosts
            assert told == {(host, key) for host, key in there if host in alive}
        return deleted

    # Holders

    @rule(holder=holders, key=keys)
    def hold(self, holder: Holder, key: Any) -> None:
        self.feed(events.Held(holder, ((key, key[1]),)))

    @rule(holder=holders, key=keys, computable=st.booleans())
    def put(self, holder: Holder, key: Any, computable: bool) -> None:
        computable = computable and holder.kind == "result"
        self.feed(events.Put(holder, key, key[1], computable))

    @rule(holder=holders, some=st.none() | st.lists(keys, max_size=3))
    def release(self, holder: Holder, some: Any) -> None:
        self.feed(events.Released(holder, None if some is None else tuple(some)))

    @rule(task=tasks, wanted=st.booleans())
    def release_result(self, task: str, wanted: bool) -> None:
        self.feed(events.ResultReleased(task, wanted))
        assert Holder("result", task) not in self.state.held

    @rule(task=tasks)
    def forget_task(self, task: str) -> None:
        self.feed(events.TaskForgotten(task))
        assert Holder("key", task) not in self.state.held
        assert Holder("lost", task) not in self.state.held

    @rule(task=tasks, key=keys, is_read=st.booleans())
    def replace(self, task: str, key: Any, is_read: bool) -> None:
        self.feed(events.ValueReplaced(task, (key,), is_read))
        assert key not in self.state.held.get(Holder("key", task), ())

    @rule()
    def restart(self) -> None:
        self.feed(events.TasksCleared())
        assert {each.kind for each in self.state.held} <= {"client"}

    @rule(key=keys)
    def read_once(self, key: Any) -> None:
        self.feed(events.ReadOnce(key))

    @precondition(lambda self: self.deleting)
    @rule(data=st.data())
    def end_deletion(self, data: Any) -> None:
        done = tuple(dict.fromkeys(self.deleting))
        self.deleting.clear()
        failed = data.draw(st.lists(st.sampled_from(done), unique=True))
        self.feed(events.Deleted(done, tuple(failed)))
        again = [key for key in failed if self.state.objects[key].deletion]
        assert set(again) <= set(self.state.known)
        found = self.feed(events.Reconciled(1.0))
        assert [e.here for e in found if isinstance(e, events.Delete)] == (
            [tuple(k for k in self.state.objects if k in failed)] if failed else []
        )

    # Hosts

    @precondition(lambda self: self.is_apart)
    @rule(
        process=processes,
        other=st.sampled_from([None, None, *PLACES]),
        serves=st.booleans(),
        some=st.lists(keys, max_size=2),
    )
    def join(self, process: str, other: str | None, serves: bool, some: Any) -> None:
        if process in CLIENTS:
            host = other or CLIENTS[process]
            self.feed(events.Joined(process, "client", host, "a host"))
            return
        endpoint = f"tcp://{process}:1" if serves else None
        host, names = other or WORKERS[process], tuple(key[0] for key in some)
        self.feed(events.Joined(process, "worker", host, "a host", endpoint, names))

    @precondition(lambda self: self.is_apart)
    @rule(process=processes)
    def leave(self, process: str) -> None:
        self.feed(events.Left(process))
        assert process not in {asker for asker, _ in self.asking}
        assert self.state.hosts.host_of(process) is None

    # Copies

    @precondition(lambda self: self.is_apart)
    @rule(
        process=processes,
        key=keys,
        last=st.sampled_from([False] * 4 + [True]),
        data=st.data(),
    )
    def ask(self, process: str, key: Any, last: int, data: Any) -> None:
        hosts = self.state.hosts
        serving = sorted(each for host in hosts.hosts for each in hosts.endpoints(host))
        failed: list[str] = []
        if serving:
            some = st.lists(st.sampled_from(serving), unique=True, max_size=2)
            failed = data.draw(st.just([]) | some)
        if last:
            self.feed(events.SourceAsked(process, key, tuple(failed), True))
            answer = self.site.last_answers.pop((process, key))
            assert answer["status"] in ("lost", "left")
        else:
            self.asking.add((process, key))
            self.feed(events.SourceAsked(process, key, tuple(failed)))
        assert not self.site.last_answers

    @precondition(lambda self: self.is_apart)
    @rule(key=keys, data=st.data())
    def read_on_all_hosts(self, key: Any, data: Any) -> None:
        for process in data.draw(st.permutations(sorted(self.state.hosts.processes))):
            self.asking.add((process, key))
            self.feed(events.SourceAsked(process, key))

    @precondition(lambda self: self.is_apart)
    @rule(process=processes, key=keys, copied=st.booleans())
    def end_fetch(self, process: str, key: Any, copied: bool) -> None:
        self.feed(events.Fetched(process, key, copied))
        host = self.state.hosts.host_of(process)
        if copied and host is not None:
            assert host in self.state.objects[key].copies
        assert (process, key) not in self.asking

    @precondition(lambda self: self.is_apart)
    @rule(client=st.sampled_from([*CLIENTS]), key=keys, host=st.sampled_from(PLACES))
    def supply(self, client: str, key: Any, host: str) -> None:
        self.feed(events.Supplied(client, key, host))

    @precondition(lambda self: self.is_apart)
    @rule(client=st.sampled_from([*CLIENTS]), key=keys)
    def refuse(self, client: str, key: Any) -> None:
        self.feed(events.Supplied(client, key, None))

    # Time

    @rule(seconds=st.sampled_from([0.1, PATIENCE, LOST, SLOW, 400.0]))
    def pass_time(self, seconds: float) -> None:
        asking = set(self.asking)
        self.site.now += seconds
        timers = self.site.timers
        due = [each for each in timers if each.when <= self.site.now]
        self.site.timers = [each for each in timers if each.when > self.site.now]
        for each in due:
            self.feed(each.event)
        if seconds >= PATIENCE:
            assert not asking & self.asking, "a reader that waits is not answered"

    @rule()
    def reconcile(self) -> None:
        self.feed(events.Reconciled(1.0))

    # What is always true

    @invariant()
    def indexes_agree(self) -> None:
        check(self.state)

    @invariant()
    def who_waits_is_on_a_host_that_reads(self) -> None:
        for process, key in self.asking:
            host = self.state.hosts.host_of(process)
            assert self.state.objects[key].readers[host].processes[process]

    @invariant()
    def no_copy_has_more_readers_than_it_may(self) -> None:
        recent = self.site.now - SLOW
        for obj in self.state.objects.values():
            grants = [each for each in obj.grants.values() if each.since > recent]
            readers = Counter(each.source for each in grants)
            assert max(readers.values(), default=0) <= self.fan_out

    @invariant()
    def nobody_waits_for_a_host_that_is_free(self) -> None:
        for obj in self.state.objects.values():
            readers = Counter(each.source for each in obj.grants.values())
            for reader in obj.readers.values():
                assert not [
                    host
                    for host in obj.copies
                    if self.state.hosts.endpoints(host)
                    and readers[host] < self.fan_out
                    and host not in reader.avoid
                ]

    def teardown(self) -> None:
        """Nothing is left once all that holds or has an object is gone."""
        if not hasattr(self, "site"):
            return
        for process in [*WORKERS, *CLIENTS]:
            self.feed(events.Left(process))
        for key in list(self.state.objects):  # the scheduler reads, and does not leave
            self.feed(events.Fetched(SCHEDULER, key, False))
        for holder in list(self.state.held):
            self.feed(events.Released(holder))
        self.feed(events.Deleted(tuple(self.state.objects)))
        self.pass_time(FORGOTTEN + 1)
        for _ in range(3):  # what it was put on that has no holder
            self.reconcile()
        assert not self.asking
        assert not self.state.objects
        assert not self.state.held
        check(self.state)


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None
)
