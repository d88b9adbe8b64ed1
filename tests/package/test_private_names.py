"""Dask's private names: each that is used is listed, and is still what it was."""

from __future__ import annotations

import ast
import inspect
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask._expr
import dask._task_spec
import distributed
import pytest
from dask._task_spec import DataNode, GraphNode, Task, TaskRef
from distributed import Client, LocalCluster, Nanny, Scheduler, Worker
from distributed.batched import BatchedSend
from distributed.core import ConnectionPool, PooledRPCCall
from distributed.protocol.serialize import dask_serialize
from distributed.system_monitor import SystemMonitor
from distributed.worker_memory import NannyMemoryManager
from tornado.ioloop import PeriodicCallback

from tests.support.requirements import require_module

PACKAGE = Path(__file__).parents[2] / "daskref"
#: Modules that have a table, and others in which there may be nothing to list.
MODULES = {
    f"daskref.{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}": path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py" and "connectors" not in path.parts
}
#: Prefixes in the tables, and whose attributes they stand for. What is looked up on an
#: instance comes from a running cluster.
OWNERS: dict[str, Any] = {
    "BatchedSend": BatchedSend,
    "Client": Client,
    "Nanny": Nanny,
    "Scheduler": Scheduler,
    "SystemMonitor": SystemMonitor,
    "Worker": Worker,
    "_expr": dask._expr,
    "_task_spec": dask._task_spec,
    "client": distributed.client,
    "core": distributed.core,
    "versions": distributed.versions,
}


def table(doc: str) -> list[str]:
    """Return the names in the first column of a docstring's table of private names."""
    _, found, rest = doc.partition("Private Dask names used here")
    if not found:
        return []
    names: list[str] = []
    rules = 0
    for line in rest.splitlines():
        if re.fullmatch(r"=+ +=+", line):
            rules += 1
            width = line.index(" ")
        elif rules == 2:
            for name in re.findall("``([^`]+)``", line[:width]):
                if name.startswith("."):  # of the one before
                    name = names[-1].partition(".")[0] + name
                names.append(name)
    assert rules == 3, "a table has three lines of ="
    return names


TABLES = {name: table(import_module(name).__doc__ or "") for name in MODULES}
LISTED = sorted({name for names in TABLES.values() for name in names})


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    """A plain client, scheduler and worker, for what only instances have."""
    with (
        LocalCluster(
            processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield SimpleNamespace(
            client=client, scheduler=cluster.scheduler, worker=cluster.workers[0]
        )


def parameters(func: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(func).parameters)


def takes(func: Any, *names: str, first: tuple[str, ...] = ()) -> None:
    """Check that a function takes these by name, and those first by position."""
    found = parameters(func)
    named = [p for p in found.values() if p.kind in (p.VAR_KEYWORD, p.KEYWORD_ONLY)]
    assert tuple(found)[: len(first)] == first
    for name in names:
        assert name in found or any(p.kind is p.VAR_KEYWORD for p in named), name


# What we rely on, name by name

CHECKS: dict[str, Callable[[Any], None]] = {}


def checks(*names: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def register(check: Callable[[Any], None]) -> Callable[[Any], None]:
        CHECKS.update(dict.fromkeys(names, check))
        return check

    return register


@checks("Client._graph_to_futures")
def _(running: Any) -> None:
    takes(
        Client._graph_to_futures,
        *["workers", "allow_other_workers", "internal_priority"],
        first=("self", "expr", "keys", "span_metadata"),
    )
    one = running.client._graph_to_futures(
        dask._expr.LLGExpr({"x": DataNode("x", 1)}, _determ_token="token"), ["x"], None
    )
    assert set(one) == {"x"}
    assert one["x"].result() == 1


@checks("Client._scatter")
def _(running: Any) -> None:
    assert inspect.iscoroutinefunction(Client._scatter)
    ours = parameters(import_module("daskref.client.by_reference").ByReference._scatter)
    theirs = parameters(Client._scatter)
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


@checks("Client._replicate")
def _(running: Any) -> None:
    takes(Client._replicate, "workers", "n")


@checks("Client._timeout")
def _(running: Any) -> None:
    assert isinstance(running.client._timeout, int | float)


@checks("protocol.serialize.dask_serialize")
def _(running: Any) -> None:
    assert callable(dask_serialize._lookup[bytes])


@checks("Scheduler.get_ncores_running")
def _(running: Any) -> None:
    assert running.scheduler.handlers["ncores_running"]()


@checks("Worker.update_data")
def _(running: Any) -> None:
    takes(Worker.update_data, "data")


@checks("Client._gather")
def _(running: Any) -> None:
    assert inspect.iscoroutinefunction(Client._gather)
    ours = parameters(import_module("daskref.client.by_reference").ByReference._gather)
    theirs = parameters(Client._gather)
    assert list(ours) == list(theirs)
    assert "local_worker.data" in inspect.getsource(Client._gather)


@checks("Client._gather_remote")
def _(running: Any) -> None:
    assert list(parameters(Client._gather_remote)) == ["self", "direct", "local_worker"]
    # how it is called, and what it returns
    source = inspect.getsource(Client._gather)
    assert "self._gather_remote(direct, local_worker)" in source
    assert 'response["status"]' in source
    assert 'response["data"]' in source


@checks("Client._ensure_connected")
def _(running: Any) -> None:
    takes(Client._ensure_connected, first=("self", "timeout"))
    assert running.client.scheduler_comm is not None
    assert running.client.status == "running"
    assert "_ensure_connected" in inspect.getsource(Client._start)
    assert "_ensure_connected" in inspect.getsource(Client._reconnect)


@checks("Client._close")
def _(running: Any) -> None:
    assert inspect.iscoroutinefunction(Client._close)


@checks("Client._release_key")
def _(running: Any) -> None:
    assert list(parameters(Client._release_key)) == ["self", "key"]


@checks("Client._run")
def _(running: Any) -> None:
    assert inspect.iscoroutinefunction(Client._run)


@checks("Client._run_on_scheduler")
def _(running: Any) -> None:
    assert inspect.iscoroutinefunction(Client._run_on_scheduler)
    takes(Client._run_on_scheduler, first=("self", "function", "args"))


@checks("Client._serializers", "Client._deserializers")
def _(running: Any) -> None:
    assert running.client._serializers is running.client._deserializers is None


@checks("Client._send_to_scheduler")
def _(running: Any) -> None:
    assert list(parameters(Client._send_to_scheduler)) == ["self", "msg"]
    assert issubclass(distributed.client.ClosedClientError, Exception)


@checks("Client._stream_handlers")
def _(running: Any) -> None:
    handlers = running.client._stream_handlers
    assert callable(handlers["restart"])
    assert not parameters(handlers["restart"])
    # looked up for each message, so that ours is found
    assert "self._stream_handlers" in inspect.getsource(Client._handle_report)


@checks("Worker._client")
def _(running: Any) -> None:
    assert "self._client = Client(" in inspect.getsource(Worker._get_client)
    assert running.worker._client is None or isinstance(running.worker._client, Client)


@checks("Worker._initialized_clients")
def _(running: Any) -> None:
    assert running.client not in Worker._initialized_clients  # and it is a container


@checks("Client._start_arg")
def _(running: Any) -> None:
    source = inspect.getsource(Worker._get_client)
    assert re.search(r"Client\(\s*self\.scheduler,", source)
    assert isinstance(running.worker.scheduler, PooledRPCCall)
    assert not isinstance(running.client._start_arg, PooledRPCCall)


@checks("_expr.Expr", "_expr.LLGExpr")
def _(running: Any) -> None:
    expr = dask._expr.LLGExpr({"x": DataNode("x", 1)}, _determ_token="token")
    assert isinstance(expr, dask._expr.Expr)
    assert expr._parameters == ["dsk"]
    assert expr.operand("dsk") == expr.__dask_graph__()
    assert isinstance(expr.__dask_annotations__(), dict)
    assert expr.deterministic_token == "token"


@checks("_task_spec.Alias", "_task_spec.TaskRef", "_task_spec.parse_input")
def _(running: Any) -> None:
    assert issubclass(dask._task_spec.Alias, GraphNode)
    assert dask._task_spec.parse_input(1) == 1
    found = dask._task_spec.parse_input(TaskRef("x"))
    assert isinstance(found, GraphNode)
    assert found.dependencies == {"x"}


@checks("dask._task_spec")
def _(running: Any) -> None:
    assert "_task_spec" in inspect.getsource(distributed.utils.get_traceback)


@checks("_task_spec.DataNode")
def _(running: Any) -> None:
    node = DataNode("x", 1)
    assert (node.key, node.value, node()) == ("x", 1, 1)


@checks("_task_spec.GraphNode")
def _(running: Any) -> None:
    # what our nodes set, have, and override
    assert {"key", "_dependencies"} <= set(GraphNode.__slots__)
    for name in ("_verify_values", "copy", "substitute", "dependencies"):
        assert hasattr(GraphNode, name)
    assert isinstance(GraphNode.data_producer, property)
    assert isinstance(GraphNode.is_coro, property)
    assert list(parameters(GraphNode.substitute)) == ["self", "subs", "key"]
    assert list(parameters(GraphNode.__call__)) == ["self", "values"]


@checks("_task_spec.Task")
def _(running: Any) -> None:
    task = Task("x", max, TaskRef("y"), 1, default=2)
    assert (task.func, task.args[1], task.kwargs) == (max, 1, {"default": 2})
    assert task.dependencies == {"y"}
    assert task.has_subgraph() is False
    for name in ("_token", "_repr", "_is_coro"):
        assert name in {slot for cls in Task.__mro__ for slot in _slots(cls)}


@checks("versions.scheduler_relevant_packages")
def _(running: Any) -> None:
    assert isinstance(distributed.versions.scheduler_relevant_packages, set)
    takes(Client.get_versions, first=("self", "check", "packages"))


def _slots(cls: type) -> tuple[str, ...]:
    return tuple(cls.__dict__.get("__slots__", ()))


@checks("_task_spec.convert_legacy_graph")
def _(running: Any) -> None:
    (node,) = dask._task_spec.convert_legacy_graph({"x": (max, 1, 2)}).values()
    assert isinstance(node, Task)


@checks("client._MapExpr")
def _(running: Any) -> None:
    found = []
    before = running.client._graph_to_futures
    running.client._graph_to_futures = lambda *args, **_: found.append(args[0]) or {}
    try:
        with suppress(KeyError):  # it asks for the futures
            running.client.map(max, [1, 2], range(2), default=3)
    finally:
        running.client._graph_to_futures = before
    (expr,) = found
    assert type(expr) is distributed.client._MapExpr
    assert expr.func is max
    assert list(map(list, expr.iterables)) == [[1, 2], [0, 1]]
    assert expr.kwargs == {"default": 3}


@checks("core.PooledRPCCall")
def _(running: Any) -> None:
    call = PooledRPCCall("tcp://127.0.0.1:1", None)
    assert {"serializers", "deserializers"} <= set(vars(call))
    # calls are made in __getattr__; ours call that
    assert "__getattr__" in vars(PooledRPCCall)
    assert inspect.iscoroutinefunction(call.anything)


@checks("core.ConnectionPool")
def _(running: Any) -> None:
    pool = running.client.rpc
    assert type(pool) is ConnectionPool
    assert {"serializers", "deserializers"} <= set(vars(pool))
    assert type(pool("tcp://127.0.0.1:1")) is PooledRPCCall
    assert type(running.worker.rpc) is ConnectionPool


@checks("Scheduler.handlers", "Scheduler.stream_handlers")
def _(running: Any) -> None:
    assert callable(running.scheduler.handlers["gather"])
    handler = running.scheduler.stream_handlers["client-releases-keys"]
    takes(handler, "client")
    handler = running.scheduler.stream_handlers["release-worker-data"]
    takes(handler, "worker")


@checks("Scheduler.http_application")
def _(running: Any) -> None:
    http = running.scheduler.http_application
    # asked one after the other, as of now
    assert "in self.applications" in inspect.getsource(type(http).find_handler)
    assert isinstance(http.applications, list)
    takes(http.add_application, first=("application",))


@checks("dashboard.core.BokehApplication")
def _(running: Any) -> None:
    core = require_module("distributed.dashboard.core")
    takes(core.BokehApplication, "template_variables", first=("applications", "server"))
    (dasks,) = running.scheduler.http_application.applications
    assert isinstance(dasks, core.DaskBokehTornado)
    assert dasks.prefix == ""


@checks("dashboard.scheduler.template_variables")
def _(running: Any) -> None:
    scheduler = require_module("distributed.dashboard.scheduler")
    found = scheduler.template_variables(running.scheduler)
    # one list for all pages, those that there are included
    assert scheduler.template_variables(running.scheduler) is found
    assert found["pages"][0] == "status"
    assert "**template_variables" in inspect.getsource(
        require_module("distributed.dashboard.core").BokehApplication
    )


@checks(
    "dashboard.components.scheduler.env", "dashboard.components.scheduler.BOKEH_THEME"
)
def _(running: Any) -> None:
    pages = require_module("distributed.dashboard.components.scheduler")
    source = inspect.getsource(pages.systemmonitor_doc)
    assert 'doc.template = env.get_template("simple.html")' in source
    assert "doc.template_variables.update(extra)" in source
    assert "doc.theme = BOKEH_THEME" in source


@checks("Scheduler.worker_plugins")
def _(running: Any) -> None:
    assert isinstance(running.scheduler.worker_plugins, dict)
    source = inspect.getsource(Scheduler.register_worker_plugin)
    assert '"plugin-add"' in source
    assert "self.worker_plugins[name] = plugin" in source


@checks("Scheduler._ongoing_background_tasks")
def _(running: Any) -> None:
    takes(running.scheduler._ongoing_background_tasks.call_soon)


@checks("Scheduler.report")
def _(running: Any) -> None:
    takes(Scheduler.report, "client", first=("self", "msg"))
    assert not inspect.iscoroutinefunction(Scheduler.report)
    # the plugins are called before the clients are told
    source = inspect.getsource(Scheduler._transitions)
    assert "client_msgs" in source
    assert "plugin.transition" in inspect.getsource(Scheduler._transition)


@checks("Scheduler.worker_send")
def _(running: Any) -> None:
    assert list(parameters(Scheduler.worker_send)) == ["self", "worker", "msg"]
    assert not inspect.iscoroutinefunction(Scheduler.worker_send)


@checks("Scheduler._add_to_processing")
def _(running: Any) -> None:
    takes(Scheduler._add_to_processing, "stimulus_id", first=("self", "ts", "ws"))
    # what it reads, and what is changed for it
    assert {"memory_limit", "nbytes", "dependencies"} <= set(
        re.findall(r"\w+", inspect.getsource(Scheduler._add_to_processing))
    )


@checks("TaskState.run_id")
def _(running: Any) -> None:
    source = inspect.getsource(Scheduler.stimulus_task_finished)
    assert "ts.run_id != run_id" in source
    assert "ts.processing_on.address" in source


@checks("Scheduler.transitions")
def _(running: Any) -> None:
    takes(Scheduler.transitions, "stimulus_id", first=("self", "recommendations"))
    # a result that is wanted is computed again
    source = inspect.getsource(Scheduler._transition_memory_released)
    assert 'recommendations[key] = "waiting"' in source


@checks("Worker.stream_handlers")
def _(running: Any) -> None:
    assert callable(running.worker.stream_handlers["free-keys"])


@checks("Worker.listener", "Worker.contact_address")
def _(running: Any) -> None:
    assert "://" in running.worker.listener.listen_address
    assert running.worker.contact_address == running.worker.address


@checks("Worker.state.executing", "Worker.nthreads")
def _(running: Any) -> None:
    assert len(running.worker.state.executing) == 0
    assert running.worker.state.nthreads > 0


@checks("Worker.handlers")
def _(running: Any) -> None:
    handlers = running.worker.handlers
    for op in ("get_data", "actor_execute", "actor_attribute"):
        assert callable(handlers[op])


@checks("Worker.get_data", "comm.write")
def _(running: Any) -> None:
    found = parameters(Worker.get_data)
    assert list(found)[:5] == ["self", "comm", "keys", "who", "serializers"]
    source = inspect.getsource(Worker.get_data)
    assert "comm.write(msg, serializers=serializers)" in source
    assert '"data":' in source
    assert "to_serialize(v)" in source


@checks("Worker.actor_execute")
def _(running: Any) -> None:
    assert inspect.iscoroutinefunction(Worker.actor_execute)
    takes(Worker.actor_execute, first=("self", "actor", "function", "args", "kwargs"))
    assert "to_serialize(result)" in inspect.getsource(Worker.actor_execute)


@checks("Worker.actor_attribute")
def _(running: Any) -> None:
    assert not inspect.iscoroutinefunction(Worker.actor_attribute)
    takes(Worker.actor_attribute, first=("self", "actor", "attribute"))
    assert "to_serialize(value)" in inspect.getsource(Worker.actor_attribute)


@checks("Worker._get_client")
def _(running: Any) -> None:
    assert list(parameters(Worker._get_client)) == ["self", "timeout"]


@checks("Worker.state.tasks[key].run_spec")
def _(running: Any) -> None:
    assert isinstance(running.worker.state.tasks, dict)
    state = distributed.worker_state_machine.TaskState
    for name in ("run_spec", "dependencies", "nbytes"):
        assert name in state.__slots__ or name in state.__annotations__


@checks("Worker.state.data")
def _(running: Any) -> None:
    worker = running.worker
    assert worker.state.data is worker.data is worker.memory_manager.data


@checks("Worker.state.nbytes")
def _(running: Any) -> None:
    # of each task in memory, once, and taken away again when it is released
    source = inspect.getsource(distributed.worker_state_machine.WorkerState)
    assert source.count("self.nbytes += ts.nbytes") == 1
    assert source.count("self.nbytes -= ts.nbytes") == 1
    assert isinstance(running.worker.state.nbytes, int)


@checks("BatchedSend.interval")
def _(running: Any) -> None:
    source = inspect.getsource(BatchedSend)
    assert "self.next_deadline = time() + self.interval" in source
    hash(running.client.scheduler_comm)  # and there can be weak references to it
    weakref.ref(running.client.scheduler_comm)


@checks("Scheduler.client_comms", "Scheduler.stream_comms", "Worker.batched_stream")
def _(running: Any) -> None:
    scheduler, worker = running.scheduler, running.worker
    streams = [
        running.client.scheduler_comm,
        scheduler.client_comms[running.client.id],
        scheduler.stream_comms[worker.address],
        worker.batched_stream,
    ]
    assert {type(stream) for stream in streams} == {BatchedSend}
    # the stream is there when plugins hear of the worker
    source = inspect.getsource(Scheduler.add_worker)
    assert source.index("self.stream_comms[address] =") < source.index(
        "plugin.add_worker("
    )


@checks("Worker.batched_send")
def _(running: Any) -> None:
    assert list(parameters(Worker.batched_send)) == ["self", "msg"]


@checks("Nanny.periodic_callbacks", "Nanny.memory_manager")
def _(running: Any) -> None:
    nanny = SimpleNamespace(periodic_callbacks={}, nthreads=1)
    manager = NannyMemoryManager(nanny, memory_limit="1 GiB")  # type: ignore[arg-type]
    callback = nanny.periodic_callbacks["memory_monitor"]
    assert isinstance(callback, PeriodicCallback)
    assert callable(callback.callback)
    assert manager.memory_limit == 2**30
    assert 0 < manager.memory_terminate_fraction <= 1
    assert "self.memory_manager" in inspect.getsource(Nanny.__init__)
    assert "process.process" in inspect.getsource(NannyMemoryManager.memory_monitor)


@checks("SystemMonitor.get_process_memory")
def _(running: Any) -> None:
    assert list(parameters(SystemMonitor.get_process_memory)) == ["self"]
    assert running.worker.monitor.get_process_memory() > 0
    # asked where it is needed, so that ours is found
    source = inspect.getsource(distributed.worker_memory)
    assert "worker.monitor.get_process_memory" in source


@pytest.mark.parametrize("name", LISTED)
def test_is_still_there(name: str, running: Any) -> None:
    assert name in CHECKS, f"{name} is listed: say above what we rely on"
    CHECKS[name](running)


def test_no_check_is_without_a_use() -> None:
    assert set(CHECKS) <= set(LISTED)


# Nothing that is used is missing from the tables


@cache
def _own_names() -> set[str]:
    """Return the private names that daskref itself defines, as methods or fields."""
    own = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    own.add(name)
                case ast.Attribute(value=ast.Name("self"), attr=name, ctx=ast.Store()):
                    own.add(name)
                case ast.AnnAssign(target=ast.Name(name)):
                    own.add(name)
    return own


def _uses(path: Path) -> Iterator[str]:
    """Yield the private names of others that a module uses."""
    own = _own_names()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                last = module.rpartition(".")[2]
                for alias in names:
                    ours = module.partition(".")[0] not in ("dask", "distributed")
                    if not ours and (last.startswith("_") or _is_private(alias.name)):
                        yield f"{last}.{alias.name}"
            case ast.Attribute(value=value, attr=name) if _is_private(name):
                base = ast.unparse(value)
                if base == "super()" or (name not in own and base != "sys"):
                    yield name


def _is_private(name: str) -> bool:
    # what notebooks ask for is no secret of Dask's
    public = ("__", "_daskref", "_repr_html_")
    return name.startswith("_") and not name.startswith(public)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_each_use_is_listed(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    _, _, listed = doc.partition("Private Dask names used here")
    missing = {
        name
        for name in _uses(MODULES[module])
        if not re.search(
            rf"(?<![\w.]){re.escape(name)}\b|\.{re.escape(name)}\b", listed
        )
    }
    # a NamedTuple's own methods look private and are documented; of Python's locks,
    # ``test_background`` tests it
    assert not missing - {"_fields", "_make", "_replace", "_asdict", "_at_fork_reinit"}
