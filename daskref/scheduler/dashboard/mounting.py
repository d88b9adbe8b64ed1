"""The page in the scheduler's HTTP server, and in the menu of Dask's pages.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================================  ============================================
name                                        what for
==========================================  ============================================
``Scheduler.http_application``              Dask's pages, and others beside them
``dashboard.core.BokehApplication``         makes an application with Dask's settings
``dashboard.scheduler.template_variables``  the menu that all pages have
==========================================  ============================================
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from daskref.scheduler.dashboard.sampling import Sampler

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: In the page's address and in the menu.
NAME = "daskref"


def mount(scheduler: Scheduler, sampler: Sampler) -> Callable[[], None]:
    """Add the page to the dashboard of a running scheduler, if it has one.

    Returns ``() -> None``, which removes the page; an open page shows that.
    """
    try:
        unmount = _mount(scheduler, sampler)
    except Exception:  # the cluster is worth more than a page of it
        logger.warning("Dask's dashboard gets no page of daskref's", exc_info=True)
        unmount = None

    def leave() -> None:
        sampler.close()
        if unmount is not None:
            unmount()

    return leave


def _mount(scheduler: Scheduler, sampler: Sampler) -> Callable[[], None] | None:
    # Dask imports it if the scheduler is to have a dashboard, and there is Bokeh.
    core: Any = sys.modules.get("distributed.dashboard.core")
    http = scheduler.http_application
    dasks = [] if core is None else http.applications
    dasks = [each for each in dasks if isinstance(each, core.DaskBokehTornado)]
    if not dasks:
        return None
    from distributed.dashboard.scheduler import template_variables
    from tornado.ioloop import IOLoop

    from daskref.scheduler.dashboard._page import document

    variables = template_variables(scheduler)
    application = core.BokehApplication(
        {f"/{NAME}": partial(document, sampler)},
        scheduler,
        prefix=dasks[0].prefix,
        template_variables=variables,
    )
    application.initialize(IOLoop.current())
    application.start()
    http.add_application(application)
    pages = variables["pages"]  # one list for all pages
    pages.append(NAME)

    def unmount() -> None:
        pages.remove(NAME)
        http.applications.remove(application)
        application.stop(wait=False)  # the event loop runs in this thread

    return unmount
