"""Lists of records that print as a table, in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from html import escape
from typing import Any, Generic, TypeVar

from dask.utils import format_bytes

Record = TypeVar("Record", bound=tuple[Any, ...])

#: Fields that are sizes in bytes, and those that are known of all, if anybody answers.
_SIZES = {"nbytes", "memory", "disk"}
_MEASURED = {"memory", "disk", "mapped"}
#: Records that are printed; the last line says how many more there are.
_SHOWN = 60


class Table(list[Record], Generic[Record]):
    """A list of named tuples of one class, with a text and an HTML table.

    Parameters
    ----------
    fields
        Names of the columns: the fields of the class.
    records
        The rows.

    Examples
    --------
    >>> from typing import NamedTuple
    >>> class City(NamedTuple):
    ...     name: str
    ...     nbytes: int
    >>> Table(City._fields, [City("Bonn", 2048)])
    name  nbytes
    Bonn  2.00 kiB
    """

    fields: tuple[str, ...]

    def __init__(self, fields: tuple[str, ...], records: Iterable[Record] = ()) -> None:
        super().__init__(records)
        self.fields = fields

    def where(self, wanted: Callable[[Record], bool]) -> Table[Record]:
        """Return the records for which *wanted* is true, in their order."""
        return Table(self.fields, filter(wanted, self))

    def by(self, field: str, *, descending: bool = True) -> Table[Record]:
        """Return the records ordered by a field, the largest first by default.

        Records without a value come last. Raises KeyError if there is no such field.
        """
        if field not in self.fields:
            raise KeyError(f"{field!r} is none of {', '.join(self.fields)}")
        number = self.fields.index(field)
        known = [each for each in self if each[number] is not None]
        known.sort(key=lambda each: each[number], reverse=descending)
        rest = [each for each in self if each[number] is None]
        return Table(self.fields, [*known, *rest])

    def to_pandas(self) -> Any:
        """Return a DataFrame with a column for each field. Imports pandas."""
        import pandas as pd

        return pd.DataFrame.from_records(list(self), columns=list(self.fields))

    def _rows(self, most: int | None = _SHOWN) -> Iterator[list[str]]:
        for record in self[:most]:
            yield [
                _text(name, value)
                for name, value in zip(self.fields, record, strict=True)
            ]

    @property
    def _rest(self) -> str:
        more = len(self) - _SHOWN
        return f"… and {more:,} more" if more > 0 else ""

    def lines(self, most: int | None = None) -> list[str]:
        """Return the text's lines, the field names first; *most*: how many records."""
        rows = [list(self.fields), *self._rows(most)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            ).rstrip()
            for row in rows
        ]

    def __repr__(self) -> str:
        return "\n".join([*self.lines(_SHOWN), *filter(None, [self._rest])])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.fields)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._rows()
        )
        rest = f"<p>{escape(self._rest)}</p>" if self._rest else ""
        return (
            f'<table class="daskref"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table>{rest}"
        )


def _text(name: str, value: Any) -> str:
    """Return a cell's text: a size in bytes, a list, or another value."""
    if value is None:
        return "unknown" if name in _MEASURED else ""
    if name in _SIZES and isinstance(value, int):
        return format_bytes(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    return printable(str(value))


def printable(text: str) -> str:
    """Return a text as one line, with terminal control characters escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
