"""The table of speed-ups for a terminal, coloured by rich or as plain text."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from ablate.report.content import Report
from ablate.report.rows import tabulate_arms, tabulate_speed_ups

_BREAK = re.compile(r" (?=\[|\(no)")

if TYPE_CHECKING:
    from rich.table import Table


def render_table(report: Report) -> Table:
    """A rich table: one line an arm, speed-ups on all axes at the headline's target. Names are never read as markup."""
    from rich.table import Table
    from rich.text import Text

    table = tabulate_speed_ups(report)
    if not table.rows:
        table = tabulate_arms(report)
    shown = Table(title=Text(table.caption), title_justify="left", caption=Text(table.note) if table.note else None)
    shown.caption_justify = "left"
    for index, name in enumerate(table.header):
        shown.add_column(Text(name), overflow="fold", justify="left" if index < 2 else "right")
    for row in table.rows:
        shown.add_row(*(Text(_BREAK.sub("\n", cell)) for cell in row))  # an interval below its ratio
    return shown


def format_table(report: Report, width: int = 120) -> str:
    """The same table as plain text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(render_table(report))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().rstrip()
