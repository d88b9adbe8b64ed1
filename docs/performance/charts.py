"""Draw the charts of the performance page: ``make pictures``.

``daskref bench … --json FILE`` writes the seconds of each round. A bar is the median of
theirs / daskref's of the rounds, its line the spread; the scale is logarithmic.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

from daskref.bench.hosts import EXPERIMENTS
from daskref.bench.rows import ROWS

HERE = Path(__file__).parent
TO = HERE.parent / "_static"
STYLE = """
    text { font: 12.5px system-ui, "DejaVu Sans", sans-serif; fill: #1f2328 }
    .title { font-weight: 600; font-size: 14px }
    .note { fill: #57606a; font-size: 11.5px }
    .mid { text-anchor: middle }
    .end { text-anchor: end }
    .ground { fill: #ffffff }
    .ahead { fill: #4a8fd0 }
    .behind { fill: #d9773a }
    .spread { stroke: #1f2328 }
    .grid { stroke: #d5dae0 }
    .equal { stroke: #57606a; stroke-width: 1.5 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .note { fill: #a5afba }
      .ground { fill: #14171c }
      .spread { stroke: #e6edf3 }
      .grid { stroke: #444c56 }
      .equal { stroke: #a5afba }
    }
  """
LEFT, RIGHT, TOP, STEP = 300, 650, 62, 24


class Bar(NamedTuple):
    label: str
    ratios: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


def one_host(raw: dict[str, dict[str, list[float]]]) -> Iterator[Bar]:
    for row in ROWS:
        if taken := raw.get(row.name):
            pairs = zip(taken["plain"], taken["daskref"], strict=True)
            yield Bar(row.title, [theirs / ours for theirs, ours in pairs])


def many_hosts(raw: dict[str, dict[str, dict[str, list[float]]]]) -> Iterator[Bar]:
    for name, experiment in EXPERIMENTS.items():
        for row in experiment.rows if name in raw else ():
            ours, theirs = (raw[name].get(each) for each in (row.ours, row.against))
            # how a broadcast grows is no comparison with anybody
            if ours and theirs and (name, row.against) != ("broadcast", "clear 1"):
                pairs = zip(theirs["seconds"], ours["seconds"], strict=True)
                yield Bar(row.title, [a / b for a, b in pairs])


def chart(title: str, bars: list[Bar]) -> str:
    """Return an SVG picture of the bars."""
    every = [ratio for bar in bars for ratio in bar.ratios]
    lowest = math.floor(min(math.log10(min(every)), -0.3) * 2) / 2
    highest = math.ceil(max(math.log10(max(every)), 0.3) * 2) / 2

    def at(ratio: float) -> float:
        share = (math.log10(ratio) - lowest) / (highest - lowest)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    bottom = TOP + STEP * len(bars)
    told = "; ".join(f"{bar.label}: {bar.median:.3g}" for bar in bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {bottom + 34}" '
        'role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">Theirs / daskref, medians. {escape(told)}.</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="720" height="{bottom + 34}"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        '<text class="note" x="16" y="45">how many times as fast as theirs: median '
        "of the rounds, and spread</text>",
    ]
    for tick in (0.1, 0.3, 0.5, 1, 2, 3, 5, 10, 30, 100, 300, 1000):
        if 10**lowest <= tick <= 10**highest:
            kind = "equal" if tick == 1 else "grid"
            parts += [
                f'<path class="{kind}" d="M{at(tick)} {TOP - 4}V{bottom}"/>',
                f'<text class="note mid" x="{at(tick)}" y="{bottom + 18}">{tick:g}'
                "</text>",
            ]
    for number, bar in enumerate(bars):
        y, middle = TOP + STEP * number, TOP + STEP * number + 8
        begin, end = sorted((at(1), at(bar.median)))
        kind = "ahead" if bar.median >= 1 else "behind"
        low, high = at(min(bar.ratios)), at(max(bar.ratios))
        parts += [
            f'<text class="end" x="{LEFT - 10}" y="{y + 12}">'
            f"{escape(bar.label)}</text>",
            f'<rect class="{kind}" x="{begin}" y="{y}" height="16" '
            f'width="{max(end - begin, 1):.1f}"/>',
            f'<path class="spread" d="M{low} {middle}H{high}"/>',
            f'<text x="{RIGHT + 12}" y="{y + 12}">{bar.median:.3g}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])


CHARTS = {
    "one-host": ("One host, without pauses", one_host),
    "hosts": ("Many hosts, without pauses", many_hosts),
}

if __name__ == "__main__":
    for path in sorted(HERE.glob("*.json")):
        title, read = CHARTS[path.stem]
        to = TO / f"performance-{path.stem}.svg"
        bars = list(read(json.loads(path.read_text("utf-8"))))
        to.write_text(chart(title, bars), encoding="utf-8")
        print(to)
