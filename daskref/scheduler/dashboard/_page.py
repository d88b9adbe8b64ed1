"""The page: tables and charts of a sampler's data.

Tables are HTML in which every cell is escaped; charts draw text as text.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

================================================  ======================================
name                                              what for
================================================  ======================================
``dashboard.components.scheduler.env``            the frame of all of Dask's pages
``dashboard.components.scheduler.BOKEH_THEME``    their looks
================================================  ======================================
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from heapq import nlargest
from html import escape
from typing import Any, cast

from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, Div
from dask.utils import format_bytes
from distributed.dashboard.components.scheduler import BOKEH_THEME, env

from daskref.cluster.stats import Stats
from daskref.scheduler.dashboard._charts import (
    STATES,
    draw_hosts,
    draw_kept,
    draw_rates,
)
from daskref.scheduler.dashboard.sampling import Rates, Sampler
from daskref.store.metrics import INBAND

#: Hosts in the chart: the fullest ones.
_HOSTS = 40
#: Characters of a name, of a text, and names in a cell.
_NAME, _TEXT, _NAMES = 44, 400, 3
#: Milliseconds between two updates.
_INTERVAL = 500
_STYLE = """
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; padding: 2px 14px 2px 0; vertical-align: top; }
th { border-bottom: 1px solid #ccc; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
h3 { margin: 12px 0 4px 0; font-size: 14px; }
b { font-size: 18px; }
"""


def document(sampler: Sampler, scheduler: Any, extra: dict[str, Any], doc: Any) -> None:
    """Fill an empty Bokeh document with the page; *extra*: the menu of Dask's pages."""
    page = Page(sampler)
    doc.title = "Dask: daskref"
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    doc.theme = BOKEH_THEME
    doc.add_root(page.root)
    sampler.enter()
    doc.on_session_destroyed(lambda context: sampler.leave())

    def update() -> None:
        page.update()
        if sampler.ended:
            doc.remove_periodic_callback(handle)

    handle = doc.add_periodic_callback(update, _INTERVAL)


class Page:
    """Charts and tables of a sampler's data."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._turn = -1
        self._rates = ColumnDataSource({name: [] for name in Rates._fields})
        self._hosts = ColumnDataSource(
            {name: [] for name in ("host", *STATES, "disk", "budget")}
        )
        self._totals = _div("The first numbers come in a moment.")
        self._objects, self._transfers, self._warnings = _div(), _div(), _div()
        self._of_hosts = draw_hosts(self._hosts)
        charts = [draw_rates(self._rates), draw_kept(self._rates)]
        self.root = column(
            self._totals,
            row(
                self._of_hosts,
                column(*charts, sizing_mode="stretch_width"),
                sizing_mode="stretch_width",
            ),
            self._objects,
            row(self._transfers, self._warnings, sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
            name="daskref",
        )
        self.update()

    def update(self) -> None:
        """Show new data."""
        told = self._sampler
        if told.ended:
            self._totals.text = (
                "<h3>daskref was switched off: these are its last numbers. Reload "
                "the page once it is on again.</h3>"
            )
        elif told.turn != self._turn:
            self._turn = told.turn
            if told.stats is not None:
                self._show_stats(told.stats)
            self._show_rates(list(told.rates))
            self._show_objects(told.objects)
            self._show_transfers(told.transfers)
            self._show_warnings(told.warnings, told.stats)

    def _show_stats(self, stats: Stats) -> None:
        tiles = {
            "objects": f"{stats['objects']:,}",
            "in all": format_bytes(stats["bytes"]),
            "kept off the scheduler": format_bytes(stats["bytes_kept"]),
            "puts": f"{stats['puts']:,}",
            "gets": f"{stats['gets']:,}",
            "evictions": f"{stats['evictions']:,}",
            "large values in-band": f"{sum(stats['inband'].values()):,}",
            "without room or store": f"{stats['fallbacks']:,}",
        }
        cells = "".join(
            f"<td><b>{escape(value)}</b><br>{escape(name)}</td>"
            for name, value in tiles.items()
        )
        self._totals.text = f"<table><tr>{cells}</tr></table>"

        self._show_hosts(cast("dict[str, dict[str, int]]", stats["hosts"]))

    def _show_hosts(self, hosts: dict[str, dict[str, int]]) -> None:
        def taken(name: str) -> int:
            return sum(hosts[name][state] for state in STATES)

        def fullness(name: str) -> tuple[float, int]:
            return taken(name) / (hosts[name]["budget"] or 1), hosts[name]["disk"]

        # in an order that stays, from below
        shown = sorted(nlargest(_HOSTS, hosts, fullness), reverse=True)
        names = [
            name if len(name) <= _NAME else f"{_cut(name)} {number}"
            for number, name in enumerate(shown)
        ]
        data: dict[str, list[Any]] = {
            column: [hosts[name][column] for name in shown]
            for column in (*STATES, "disk", "budget")
        }
        chart = self._of_hosts
        if chart.y_range.factors != names:
            chart.y_range.factors = names
            chart.height = 130 + 34 * len(names)
            which = f"the {_HOSTS} fullest of {len(hosts)} hosts"
            which = which if len(hosts) > _HOSTS else "by host"
            chart.title.text = f"Bytes {which}, and the budget of memory"
        self._hosts.data = {"host": names, **data}
        ends = [*data["budget"], *data["disk"], *map(taken, shown)]
        chart.x_range.end = 1.05 * max(ends, default=0) or 1

    def _show_rates(self, rates: list[Rates]) -> None:
        times = self._rates.data["time"]
        new = [each for each in rates if not len(times) or each.time > times[-1]]
        if new:
            columns = zip(*new, strict=True)
            data = dict(zip(Rates._fields, map(list, columns), strict=True))
            self._rates.stream(data, rollover=self._sampler.rates.maxlen)

    def _show_objects(self, objects: list[tuple[dict[str, Any], int]]) -> None:
        rows = [
            [
                _cut(each["type"]),
                "" if each["shape"] is None else _cut(str(tuple(each["shape"]))),
                format_bytes(each["nbytes"]),
                _names(each["hosts"]),
                f"{holders:,}",
                _names(each["prefixes"]),
                _names(each["keys"]),
                _names(each["clients"]),
                str(each["readers"] or ""),
            ]
            for each, holders in objects
        ]
        head = ["type", "shape", "size", "hosts", "holders", "prefixes", "keys"]
        head += ["clients", "being fetched"]
        self._objects.text = _table("Largest objects", head, rows, numbers={2, 4})

    def _show_transfers(self, transfers: dict[str, Any]) -> None:
        sizes = [
            [
                _cut(each["host"]),
                format_bytes(each["received"]),
                f"{each['fetched']:,}",
                format_bytes(each["sent"]),
            ]
            for each in transfers["hosts"]
        ]
        head = ["host", "received", "objects", "sent"]
        text = _table("Between hosts", head, sizes, numbers={1, 2, 3})
        now = [
            [
                format_bytes(each["nbytes"]),
                f"{_cut(each['source'])} → {_cut(each['host'])}",
                _cut(each["key"]),
            ]
            for each in transfers["now"]
        ]
        if now:
            under_way = f"Under way: {transfers['moving']:,} objects"
            text += _table(under_way, ["size", "from, to", "object"], now)
        self._transfers.text = text

    def _show_warnings(
        self, warnings: list[tuple[float, dict[str, Any]]], stats: Stats | None
    ) -> None:
        rows = [
            [
                time.strftime("%H:%M:%S", time.gmtime(stamp)),
                _cut(str(event.get("worker") or event.get("client") or "")),
                _said(event),
            ]
            for stamp, event in warnings
        ]
        inband = {} if stats is None else stats["inband"]
        reasons = [
            [f"{inband[reason]:,}", reason, meaning]
            for reason, meaning in INBAND.items()
            if inband.get(reason)
        ]
        text = _table("Warnings", ["UTC", "of", "what happened"], rows)
        if reasons:
            head = ["values", "reason", "what that means"]
            text += _table("Large values in-band", head, reasons, numbers={0})
        self._warnings.text = text


def _said(event: dict[str, Any]) -> str:
    match event["action"]:
        case "remove-host":
            host = _cut(str(event.get("host")))
            return f"the host {host} left, with {event.get('lost')} objects lost"
        case "unreachable":
            said = "sends in-band, since it cannot see the store"
        case _:
            said = "sent in-band, since the store failed"
    return f"{said}: {_cut(str(event.get('reason')), _TEXT)}"


def _cut(text: str, most: int = _NAME) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _names(names: Iterable[str]) -> str:
    found = list(names)
    more = len(found) - _NAMES
    shown = [_cut(name) for name in found[:_NAMES]]
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def _div(text: str = "") -> Any:
    return Div(text=text, sizing_mode="stretch_width", stylesheets=[_STYLE])


def _table(
    title: str,
    head: list[str],
    rows: list[list[str]],
    numbers: Iterable[int] = (),
) -> str:
    """Return a table in HTML, with all cells escaped."""
    classes = ["number" if n in numbers else "" for n in range(len(head))]

    def line(tag: str, cells: list[str]) -> str:
        return "".join(
            f'<{tag} class="{name}">{escape(cell)}</{tag}>'
            for name, cell in zip(classes, cells, strict=True)
        )

    body = "".join(f"<tr>{line('td', cells)}</tr>" for cells in rows)
    if not body:
        return f"<h3>{escape(title)}: none</h3>"
    return (
        f"<h3>{escape(title)}</h3><table><thead><tr>{line('th', head)}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
