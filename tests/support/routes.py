"""The ways by which values get to tasks and back, with daskref and with plain Dask.

A value is described where it arrives (:func:`tests.support.values.fingerprint`), and
the description is compared with that of the original; what differs may, if plain Dask
changes it in the same way on the same way.
"""

from __future__ import annotations

import functools
import importlib
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import cloudpickle
import dask
import distributed
from distributed import LocalCluster
from hypothesis import strategies as st

import daskref
from tests.support.values import (
    EXCEPTIONS,
    FUNCTIONS,
    KINDS,
    MANY,
    NESTINGS,
    Builder,
    Record,
    at,
    differences,
    fingerprint,
    look,
    look_at_each,
)

# Calls


class Call(NamedTuple):
    """A call, described as plain data; see :class:`tests.support.values.Builder`."""

    function: str
    closed: Sequence[Any] = ()
    args: Sequence[Any] = ()
    kwargs: Sequence[Any] = ()

    def make(self) -> Made:
        builder = Builder()
        closed = [builder(spec) for spec in self.closed]
        args = [builder(spec) for spec in self.args]
        kwargs = {f"k{i}": builder(spec) for i, spec in enumerate(self.kwargs)}
        return Made(FUNCTIONS[self.function](closed), closed, args, kwargs)


class Made(NamedTuple):
    """A call whose values were made."""

    function: Any
    closed: list[Any]
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def value(self) -> Any:
        """All of them in one."""
        return [self.closed, self.args, self.kwargs]

    @property
    def single(self) -> Any:
        """The first argument, in a form that ``scatter`` does not take apart."""
        value = self.args[0] if self.args else None
        if hasattr(type(value), "__iter__") and type(value).__module__ in _TAKEN_APART:
            return Record(value)
        return value


_TAKEN_APART = ("builtins", "_io", "collections", "tests.support.values")


def value_of(call: Call) -> Any:
    """Make the values of a call, in a task."""
    return call.make().value


def one() -> int:
    return 1


class Watcher:
    """An actor."""

    kept: Any = None  # Dask asks the class for the names of attributes

    def __init__(self, kept: Any = None) -> None:
        self.kept = kept

    def look(self, *args: Any, **kwargs: Any) -> Any:
        return look(*args, **kwargs)

    def keep(self, value: Any) -> Any:
        self.kept = value
        return fingerprint(value)


# Sites

#: Seconds after which something hangs.
TIMEOUT = 10


class Site:
    """A client and two workers with one thread each.

    Parameters
    ----------
    client
        With daskref or without.
    threshold
        Of daskref.
    """

    client: Any
    threshold: Any
    workers: list[str]
    _actor: Any
    _future: Any

    def __init__(self, client: Any, threshold: Any = None) -> None:
        self.client = client
        self.threshold = threshold
        self.workers = list(client.scheduler_info()["workers"])
        self._actor = self._future = None
        # two threads of a worker may not import xarray at the same time
        client.run(import_all)

    @property
    def actor(self) -> Any:
        if self._actor is None:
            self._future = self.client.submit(Watcher, actor=True)
            self._actor = self.bind(self._future)
        return self._actor

    def bind(self, future: Any) -> Any:
        """Return an actor that is this client's, whichever client is the default."""
        actor = future.result(timeout=TIMEOUT)
        actor._client = self.client
        return actor


@contextmanager
def _cluster() -> Iterator[Any]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


def import_all() -> None:
    """Import the packages whose objects are in the zoo."""
    for package in {need for kind in KINDS.values() for need in kind.needs}:
        importlib.import_module(package)


class Sites(ExitStack):
    """Clusters, each started when it is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._sites: dict[Any, Site] = {}

    def by_threshold(self, threshold: Any) -> Site:
        """Return a cluster with daskref."""
        if threshold not in self._sites:
            cluster = self.enter_context(_cluster())
            client = self.enter_context(daskref.Client(cluster, threshold=threshold))
            self._sites[threshold] = Site(client, threshold)
        return self._sites[threshold]

    def plain(self) -> Site:
        """Return a cluster of plain Dask."""
        if None not in self._sites:
            cluster = self.enter_context(_cluster())
            client = self.enter_context(
                distributed.Client(cluster, set_as_default=False)
            )
            self._sites[None] = Site(client)
        return self._sites[None]


# Routes


def _result_of(future: Any) -> Callable[[], Any]:
    return functools.partial(future.result, timeout=TIMEOUT)


class Route(NamedTuple):
    """A way to tasks, or back."""

    #: ``(made) -> description of what is sent``
    expect: Callable[[Made], Any]
    #: ``(site, call, made) -> function that returns a description of what arrived``
    start: Callable[[Site, Call, Made], Callable[[], Any]]
    #: Whether Dask sends the values one by one: what is one object in two, is two.
    apart: bool = False


def _name() -> str:
    return f"arrival-{uuid.uuid4().hex}"


def _submit(site: Site, call: Call, made: Made) -> Any:
    return _result_of(site.client.submit(made.function, *made.args, **made.kwargs))


def _submit_impure(site: Site, call: Call, made: Made) -> Any:
    return _result_of(
        site.client.submit(made.function, *made.args, **made.kwargs, pure=False)
    )


def _submit_key(site: Site, call: Call, made: Made) -> Any:
    return _result_of(
        site.client.submit(made.function, *made.args, **made.kwargs, key=_name())
    )


def _map(pure: bool) -> Any:
    def start(site: Site, call: Call, made: Made) -> Any:
        futures = site.client.map(made.function, made.args, **made.kwargs, pure=pure)
        return lambda: site.client.gather(futures)

    return start


def _mapped(made: Made) -> Any:
    return [made.function(arg, **made.kwargs) for arg in made.args]


def _delayed(site: Site, call: Call, made: Made) -> Any:
    delayed = dask.delayed(made.function, pure=False)(*made.args, **made.kwargs)
    return _result_of(site.client.compute(delayed))


def _beside_a_future(site: Site, call: Call, made: Made) -> Any:
    future = site.client.submit(one)
    return _result_of(
        site.client.submit(look, [future, *made.args], **made.kwargs, pure=False)
    )


def _scatter_list(hash: bool) -> Any:
    def start(site: Site, call: Call, made: Made) -> Any:
        futures = site.client.scatter(list(made.args), hash=hash)
        looked = site.client.submit(look_at_each, *futures, pure=False)

        def finish() -> Any:
            back = [fingerprint(x) for x in site.client.gather(futures)]
            return [looked.result(TIMEOUT), back]

        return finish

    return start


def _scatter_dict(site: Site, call: Call, made: Made) -> Any:
    data = {_name(): arg for arg in made.args}
    futures = list(site.client.scatter(data).values())
    return _result_of(site.client.submit(look_at_each, *futures, pure=False))


def _scatter_one(hash: bool) -> Any:
    def start(site: Site, call: Call, made: Made) -> Any:
        future = site.client.scatter(made.single, hash=hash)
        looked = site.client.submit(look_at_each, future, pure=False)
        return lambda: [looked.result(TIMEOUT), [fingerprint(future.result(TIMEOUT))]]

    return start


def _dependency(worker: int) -> Any:
    def start(site: Site, call: Call, made: Made) -> Any:
        first = site.client.submit(
            value_of, call, key=_name(), workers=site.workers[:1]
        )
        return _result_of(
            site.client.submit(look, first, pure=False, workers=[site.workers[worker]])
        )

    return start


def _result(site: Site, call: Call, made: Made) -> Any:
    future = site.client.submit(value_of, call, pure=False)
    return lambda: fingerprint(future.result(TIMEOUT))


def _actor_argument(site: Site, call: Call, made: Made) -> Any:
    return _result_of(site.actor.look(*made.args, **made.kwargs))


def _actor_attribute(site: Site, call: Call, made: Made) -> Any:
    def finish() -> Any:
        return [
            site.actor.keep(made.value).result(TIMEOUT),
            fingerprint(site.actor.kept),
        ]

    return finish


def _actor_made(site: Site, call: Call, made: Made) -> Any:
    future = site.client.submit(Watcher, made.value, actor=True, key=_name())
    return lambda: fingerprint(site.bind(future).kept)


def _called(made: Made) -> Any:
    return made.function(*made.args, **made.kwargs)


def _each(made: Made) -> Any:
    return [fingerprint(arg) for arg in made.args]


#: Dask hashes what it maps over, which raises for some values that are masked.
MAP_PURE = "map, pure"

#: The same ways without a hash of Dask's, which raises for those as well.
UNHASHED = {
    "submit": "submit, not pure",
    MAP_PURE: "map",
    "scatter a list": "scatter a list, not hashed",
    "scatter": "scatter, not hashed",
}

ROUTES: dict[str, Route] = {
    "submit": Route(_called, _submit),
    "submit, not pure": Route(_called, _submit_impure),
    "submit, with a key": Route(_called, _submit_key),
    "map": Route(_mapped, _map(False)),
    MAP_PURE: Route(_mapped, _map(True)),
    "delayed": Route(_called, _delayed),
    "beside a future": Route(
        lambda made: look([1, *made.args], **made.kwargs), _beside_a_future
    ),
    "scatter a list": Route(lambda made: [_each(made)] * 2, _scatter_list(True)),
    "scatter a list, not hashed": Route(
        lambda made: [_each(made)] * 2, _scatter_list(False)
    ),
    "scatter a dict": Route(_each, _scatter_dict),
    "scatter": Route(lambda made: [[fingerprint(made.single)]] * 2, _scatter_one(True)),
    "scatter, not hashed": Route(
        lambda made: [[fingerprint(made.single)]] * 2, _scatter_one(False)
    ),
    "dependency, same worker": Route(lambda made: look(made.value), _dependency(0)),
    "dependency, other worker": Route(lambda made: look(made.value), _dependency(1)),
    "result": Route(lambda made: fingerprint(made.value), _result),
    "actor, argument": Route(
        lambda made: look(*made.args, **made.kwargs), _actor_argument, apart=True
    ),
    "actor, attribute": Route(
        lambda made: [fingerprint(made.value)] * 2, _actor_attribute
    ),
    "actor, made with it": Route(lambda made: fingerprint(made.value), _actor_made),
}


class _Raised(NamedTuple):
    error: Exception


def _travel(site: Site, call: Call, names: Sequence[str]) -> dict[str, Any]:
    """Return what arrived by each route, or what was raised on the way."""
    made = call.make()
    finishes: dict[str, Any] = {}
    for name in names:
        try:
            finishes[name] = ROUTES[name].start(site, call, made)
        except Exception as exc:
            finishes[name] = _Raised(exc)
    arrived = {}
    for name, finish in finishes.items():
        try:
            arrived[name] = finish if type(finish) is _Raised else finish()
        except Exception as exc:
            arrived[name] = _Raised(exc)
    return arrived


class Losses:
    """Checks calls, and counts what is not kept without daskref either.

    Parameters
    ----------
    plain
        The same lines without daskref; used only where something differs. ``None``:
        only what a pickle loses may be lost.
    pickle_first
        Whether what a pickle loses may be lost, without asking plain Dask. That is
        fast; but plain Dask has other ways for some types.
    """

    #: What is lost without daskref as well: last steps of the path -> how often.
    accepted: Counter[str]

    def __init__(
        self, plain: Callable[[], Site] | None, pickle_first: bool = True
    ) -> None:
        self._plain = plain
        self._pickle_first = pickle_first
        self.accepted = Counter()

    def check(self, site: Site, call: Call, names: Sequence[str] = ()) -> None:
        """Raise AssertionError if what arrives is not what was sent."""
        problems: list[str] = []
        if not names:
            names = [n for n in ROUTES if n != MAP_PURE or self._plain is not None]
        for name, arrived in _travel(site, call, names).items():
            problems += self._problems(name, call, arrived)
        assert not problems, "\n".join([repr(call), *problems])

    def _problems(self, name: str, call: Call, arrived: Any) -> Iterator[str]:
        route = ROUTES[name]
        found = []
        if type(arrived) is not _Raised:
            found = list(differences(route.expect(call.make()), arrived))
            if found and self._pickle_first:
                found = self._left(found, route, _pickled(route, call))
            if not found:
                return
        if self._plain is None:
            plain = _pickled(route, call)
        else:
            plain = _travel(self._plain(), call, [name])[name]
            if type(plain) is _Raised and type(arrived) is not _Raised:
                other = UNHASHED.get(name, name)
                plain = _travel(self._plain(), call, [other])[other]
        if type(arrived) is _Raised:
            if type(plain) is not _Raised:
                yield "\n".join([f"{name}: raised", *_text(arrived.error)])
            self.accepted[f"{name}: raises"] += 1
            return
        if type(plain) is _Raised:  # then nobody knows what it would have sent apart
            plain, route = _pickled(route, call), route._replace(apart=True)
        for path, sent, got in self._left(found, route, plain):
            yield (
                f"{name}: at {path}\n  sent:    {sent!r:.600}"
                f"\n  arrived: {got!r:.600}\n  plain:   {at(plain, path)!r:.600}"
            )

    def _left(self, found: list[Any], route: Route, reference: Any) -> list[Any]:
        left = []
        for path, sent, got in found:
            other = at(reference, path)
            first_elsewhere = route.apart and path[-1] == "same"
            if (
                first_elsewhere
                or _alike(other, got)
                or _both_apart(sent, got, other, route)
            ):
                steps = [step for step in path if isinstance(step, str)]
                self.accepted[".".join(steps[-2:])] += 1
            else:
                left.append((path, sent, got))
        return left


def _pickled(route: Route, call: Call) -> Any:
    """Describe what arrives where a call is pickled as a whole."""
    try:
        made = cloudpickle.loads(cloudpickle.dumps(call.make()))
        return route.expect(made)
    except Exception as exc:
        return _Raised(exc)


def _both_apart(sent: Any, got: Any, other: Any, route: Route) -> bool:
    """Tell whether what was one object is two, without daskref as well."""
    if not all(isinstance(each, dict) for each in (sent, got)) or "same" not in sent:
        return False
    apart = route.apart or (isinstance(other, dict) and "same" not in other)
    return apart and "same" not in got and sent["type"] == got["type"]


def _alike(plain: Any, arrived: Any) -> bool:
    return not any(True for _ in differences(arrived, plain))


def _text(error: Exception) -> list[str]:
    return traceback.format_exception(error)[-6:]


# What hypothesis draws

_LENGTHS = [0, 1, 3, 3, 40, 40, 300, MANY]


def _leaves(kinds: Sequence[str], longest: int) -> Any:
    return st.tuples(
        st.just("leaf"),
        st.sampled_from(kinds),
        st.integers(0, 9),
        st.sampled_from([length for length in _LENGTHS if length <= longest]),
    )


def trees(longest: int = MANY) -> Any:
    """Descriptions of nested values, with objects that are at several places."""
    every = _leaves(sorted(KINDS), longest)
    names = sorted(name for name, each in KINDS.items() if each.hashable)
    hashable = _leaves(names, longest)
    same = st.tuples(st.just("same"), st.integers(0, 11))
    sets = st.tuples(st.just("set"), st.lists(hashable, max_size=3))
    return st.recursive(
        st.one_of(every, every, same, same, sets),
        lambda inner: st.tuples(
            st.sampled_from(sorted(NESTINGS)), st.lists(inner, max_size=4)
        ),
        max_leaves=6,
    )


def calls() -> Any:
    """Calls of functions that close over values, with arguments and keywords."""
    return st.builds(
        Call,
        st.sampled_from(sorted(FUNCTIONS)),
        st.lists(trees(), max_size=2),
        st.lists(trees(), min_size=1, max_size=3),
        st.lists(trees(), max_size=2),
    )


def reasons() -> list[str]:
    """Return what need not arrive as it was sent."""
    return list(EXCEPTIONS)
