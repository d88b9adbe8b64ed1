"""The charts of the page: figures of Bokeh over its data sources."""

from __future__ import annotations

from typing import Any

from bokeh.models import (
    BasicTicker,
    FactorRange,
    HoverTool,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.plotting import figure
from bokeh.transform import dodge

#: State of a host's memory -> label and color.
STATES = {
    "memory": ("in use", "#4a8fd0"),
    "pinned": ("pinned by readers", "#d9773a"),
    "pool": ("pool, to be written again", "#b9d4ee"),
}
_DISK = "#7d8590"
_RATES = {
    "puts": ("puts", "#4a8fd0"),
    "gets": ("gets", "#4c9f70"),
    "evictions": ("evictions", "#7d8590"),
    "inband": ("large values in-band", "#d9773a"),
}


def draw_hosts(source: Any) -> Any:
    """Draw each host's memory by state, its disk and its budget."""
    chart = _chart(
        name="hosts",
        title="Bytes by host",
        y_range=FactorRange(),
        x_range=Range1d(0, 1),
        height=164,
    )
    bars = chart.hbar_stack(
        list(STATES),
        y="host",
        height=0.5,
        color=[color for _, color in STATES.values()],
        legend_label=[meaning for meaning, _ in STATES.values()],
        source=source,
    )
    y = dodge("host", -0.36, range=chart.y_range)
    disk = chart.hbar(
        y=y, right="disk", height=0.14, color=_DISK, legend_label="disk", source=source
    )
    budget = chart.scatter(
        x="budget",
        y="host",
        marker="dash",
        angle=90,
        angle_units="deg",
        size=22,
        line_width=2,
        color="black",
        legend_label="budget",
        source=source,
    )
    names = {**{name: said for name, (said, _) in STATES.items()}, "disk": "disk"}
    tooltips = [
        ("host", "@host"),
        *((said, f"@{name}{{0.0 b}}") for name, said in names.items()),
        ("budget", "@budget{0.0 b}"),
    ]
    chart.add_tools(HoverTool(tooltips=tooltips, renderers=[*bars, disk, budget]))
    _count_bytes(chart.xaxis)
    chart.ygrid.visible = False
    _place_legend(chart)
    return chart


def draw_rates(source: Any) -> Any:
    """Draw puts, gets, evictions and in-band values per second."""
    chart = _chart_of_time("Per second", name="rates")
    for name, (meaning, color) in _RATES.items():
        line: dict[str, Any] = {"color": color, "legend_label": meaning}
        chart.line("time", name, line_width=2, source=source, **line)
    _place_legend(chart)
    return chart


def draw_kept(source: Any) -> Any:
    """Draw the bytes per second that bypassed the scheduler."""
    chart = _chart_of_time("Bytes kept off the scheduler, per second", name="kept")
    chart.varea("time", 0, "bytes_kept", color="#b9d4ee", source=source)
    chart.line("time", "bytes_kept", color="#4a8fd0", line_width=2, source=source)
    _count_bytes(chart.yaxis)
    return chart


def _chart_of_time(title: str, name: str) -> Any:
    chart = _chart(name=name, title=title, x_axis_type="datetime", height=200)
    chart.x_range.follow = "end"
    chart.x_range.follow_interval = 300_000
    chart.x_range.range_padding = 0
    chart.y_range.start = 0
    return chart


def _chart(**options: Any) -> Any:
    return figure(
        tools="",
        toolbar_location=None,
        min_width=360,
        sizing_mode="stretch_width",
        **options,
    )


def _count_bytes(axis: Any) -> None:
    axis.ticker = BasicTicker(base=1024, mantissas=[2**n for n in range(10)])
    axis.formatter = NumeralTickFormatter(format="0.0 b")


def _place_legend(chart: Any) -> None:
    (legend,) = chart.legend
    legend.orientation = "horizontal"
    legend.label_text_font_size = "11px"
    legend.border_line_alpha = 0
    legend.background_fill_alpha = 0
    legend.padding = 0
    legend.margin = 2
    chart.add_layout(legend, "above")
