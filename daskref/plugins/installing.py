"""Setting the scheduler up: for a client that joins, or when it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daskref.config import Settings
from daskref.notices import tell_unknown
from daskref.plugins.scheduler import NAME, ReferenceSchedulerPlugin
from daskref.session import SessionInfo

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler


async def start(
    scheduler: Scheduler, settings: dict[str, Any]
) -> ReferenceSchedulerPlugin:
    """Return the scheduler's plugin, made and started first if there is none.

    Parameters
    ----------
    scheduler
        Where this runs.
    settings
        Fields of :class:`~daskref.config.Settings` that go before those that the
        scheduler has configured.
    """
    plugin: ReferenceSchedulerPlugin | None = scheduler.plugins.get(NAME)
    if plugin is None:
        tell_unknown()
        plugin = ReferenceSchedulerPlugin(Settings.read(**settings))
        scheduler.add_plugin(plugin, name=NAME)
    try:
        await plugin.start(scheduler)
    except Exception:
        if scheduler.plugins.get(NAME) is plugin:
            scheduler.remove_plugin(name=NAME)
        raise
    return plugin


async def install(
    scheduler: Scheduler, client: str, settings: dict[str, Any]
) -> tuple[SessionInfo, list[str]]:
    """Let a client in; see :func:`start` and :meth:`ReferenceSchedulerPlugin.join`."""
    plugin = await start(scheduler, settings)
    joined = await plugin.join(client)
    if plugin.missing:
        await plugin.leave(client)
    return joined
