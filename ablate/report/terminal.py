"""The table of speed-ups for a terminal, coloured by rich or as plain text."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ablate.report.content import Report
from ablate.report.rows import tabulate_arms, tabulate_speed_ups

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table

_WIDEST, _NARROWEST = 10_000, 12  # characters, of a table and of the names of arms


class SpeedUpTable:
    """A rich renderable: one line an arm, with its speed-ups at the headline's target.

    The narrower the terminal, the less it holds: first the intervals go below their ratios, then the headline's axis
    and seconds stay alone. Names are never read as markup.
    """

    def __init__(self, report: Report) -> None:
        self.report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        from rich.measure import Measurement

        few = tuple(dict.fromkeys((self.report.axis, "seconds")))
        for axes, interval in ((self.report.axes, " ["), (self.report.axes, "\n["), (few, "\n[")):
            table = _build(self.report, axes, interval)
            if Measurement.get(console, options.update(max_width=_WIDEST), table).maximum <= options.max_width:
                break
        yield table


def render_table(report: Report) -> SpeedUpTable:
    return SpeedUpTable(report)


def format_table(report: Report, width: int = 120) -> str:
    """The same table as plain text."""
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=width, color_system=None, force_terminal=False, legacy_windows=False).print(
        render_table(report)
    )
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _build(report: Report, axes: tuple[str, ...], interval: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = tabulate_speed_ups(report, axes) if report.headline_rows else tabulate_arms(report)
    note = Text(table.note) if table.note else None
    shown = Table(title=Text(table.caption), title_justify="left", caption=note, caption_justify="left", box=box.SIMPLE)
    shown.add_column(Text(table.header[0]), min_width=_NARROWEST)
    for name in table.header[1:]:
        shown.add_column(Text(name.replace(" ", "\n", 1)), justify="right", no_wrap=True)
    for row in table.rows:
        cells = (cell.removesuffix(" (no interval)").replace(" [", interval) for cell in row[1:])  # the note says why
        shown.add_row(Text(row[0]), *map(Text, cells))
    return shown
