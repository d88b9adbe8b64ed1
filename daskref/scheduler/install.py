"""Installation of the scheduler plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daskref.config import Settings, tell_unknown
from daskref.scheduler._plugin import ReferenceSchedulerPlugin
from daskref.scheduler._workers import NAME

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler


async def start(
    scheduler: Scheduler, settings: dict[str, Any]
) -> ReferenceSchedulerPlugin:
    """Return the scheduler's plugin; create and start it if there is none.

    *settings*: fields of :class:`~daskref.config.Settings` that override the
    scheduler's configuration. Raises NotInstalledError or IncompatibleError if a worker
    cannot take part; nothing is set up then.
    """
    plugin: ReferenceSchedulerPlugin | None = scheduler.plugins.get(NAME)
    if plugin is None:
        tell_unknown()
        plugin = ReferenceSchedulerPlugin(scheduler, Settings.read(**settings))
        scheduler.add_plugin(plugin, name=NAME)
    try:
        await plugin.start()
    except Exception:
        await plugin.retire()
        raise
    return plugin
