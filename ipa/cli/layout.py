"""The layout of answers for people: tables declared by their columns, numbers, changes and times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from ipa.model.resources import Resources, in_column

UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column of a table: its heading, and the value of a row by its key or by a function.

    A column with a `form`, such as "{:.3f} s", has numbers: they are aligned right, and None is a dash.
    """

    heading: str
    value: str | Callable[[Any], object]
    form: str = ""

    def cell(self, row: Any) -> Text:
        """The cell of a row."""
        if isinstance(self.value, str):
            value = row[self.value] if isinstance(row, Mapping) else getattr(row, self.value)
        else:
            value = self.value(row)
        if isinstance(value, Text):
            return value
        is_shown = isinstance(value, str) or not self.form
        return Text(figure(value, "{}" if is_shown else self.form))


def make_table(rows: Iterable[Any], *columns: ViewColumn, indent: str = "") -> Table:
    """The table without lines; `indent` is the space before its first column."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for at, column in enumerate(columns):
        heading = column.heading if at else indent + column.heading
        table.add_column(heading, justify="right" if column.form else "left")
    for row in rows:
        first, *others = (column.cell(row) for column in columns)
        table.add_row(Text(indent) + first, *others)
    return table


def resource_columns(names: Iterable[str], held: Callable[[Any], Resources | None]) -> list[ViewColumn]:
    """A column for each resource of any row; None in a row stands for unknown resources."""

    def column(name: str) -> ViewColumn:
        def value(row: Any) -> str | None:
            amounts = held(row)
            return None if amounts is None else in_column(name, amounts.amount(name))

        return ViewColumn(name, value, "{}")

    return [column(name) for name in names]


def figure(value: object, form: str = "{}") -> str:
    """The value in that format; a dash if it is not known."""
    return UNKNOWN if value is None else form.format(value)


def counted(number: int, word: str) -> str:
    """The number with its word in the singular or plural."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def by_whom(by: str, reason: str = "") -> str:
    """The author and the reason, as far as they are known."""
    return (f" by {by}" if by else "") + (f": {reason}" if reason else "")


def delta(old: float | None, new: float | None, form: str, *, relative: bool = False) -> str:
    """The text `old → new (+difference, +percent)`, as far as the values are known."""
    shown = UNKNOWN if new is None else f"{new:{form}}"
    if old is None:
        return shown
    if new is None or f"{old:{form}}" == shown:
        return f"{old:{form}}"
    share = f", {(new - old) / old:+.0%}" if relative and old else ""
    return f"{old:{form}} → {shown} ({new - old:+{form}}{share})"


def date_time(at: str) -> str:
    """The local date and time of an ISO 8601 time, to the second. Programs get UTC in ISO 8601."""
    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S}"


def time_of_day(at: str) -> str:
    """The local time of day of an ISO 8601 time, to the second."""
    return f"{datetime.fromisoformat(at).astimezone():%H:%M:%S}"
