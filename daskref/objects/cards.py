"""HTML for notebooks, in the style of Dask's own."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_BOX = (
    "width: 24px; height: 24px; background-color: #e1e1e1; border: 3px solid #9D9D9D; "
    "border-radius: 5px; position: absolute;"
)


def card(title: str, subtitle: str, rows: Mapping[str, Any]) -> str:
    """Return a box with a heading, a grey line below it, and a table of two columns.

    *rows*: name -> value; those that are ``None`` are left out. All text is escaped.
    """
    lines = "".join(
        f'<tr><td style="text-align: left;"><strong>{escape(name)}:</strong> '
        f"{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    return (
        f'<div class="daskref"><div style="{_BOX}"></div>'
        f'<div style="margin-left: 48px;">'
        f'<h3 style="margin-bottom: 0px;">{escape(title)}</h3>'
        f'<p style="color: #9D9D9D; margin-bottom: 0px;">{escape(subtitle)}</p>'
        f'<table style="width: 100%; text-align: left;">{lines}</table></div></div>'
    )
