"""A table of a report as cells of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ablate.report.notation import AXIS_NAMES


@dataclass(frozen=True)
class Table:
    """`header` and `rows` of text. The first column names the row. `note` stands below the table."""

    kind: ClassVar[str] = "table"
    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def shorten_table(table: Table, limit: int, where: str = "The page has them all.") -> Table:
    """The first rows of a long table, with a line that says where the others are."""
    n_more = len(table.rows) - limit
    if n_more <= 0:
        return table
    return replace(table, rows=table.rows[:limit], note=f"{table.note}\nNot shown: {n_more} rows. {where}".strip())


def merge_costs(columns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The columns by the names of their axes of cost. Those that say the same are one, named `steps = tokens`."""
    merged: dict[tuple[str, ...], list[str]] = {}
    for axis, cells in columns.items():
        merged.setdefault(tuple(cells), []).append(AXIS_NAMES[axis])
    return {JOINED.join(names): list(cells) for cells, names in merged.items()}


JOINED = " = "
"""Between the names of axes of cost that share a column."""
