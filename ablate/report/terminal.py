"""The table of speedups in a terminal, colored by rich or as plain text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ablate.report.evaluation_tables import MOST_ROWS
from ablate.report.notation import AXIS_NAMES, join_with_and
from ablate.report.report import Report
from ablate.report.table import JOINED, Table, shorten_table
from ablate.report.tables import P_VALUE, STEP_TIME, VERDICT, tabulate_arms, tabulate_speedups

if TYPE_CHECKING:
    import rich.table
    from rich.console import Console, ConsoleOptions

WIDEST = 10_000  # characters, for output without a width
_NAMES, _NARROWEST = 20, 8  # characters: what names may take from other columns, and their minimum
_LEFT_OUT_FIRST = (
    "Flags",
    "steps",
    "GPU-seconds",
    "FLOPs",
    "Tokens",
    "FLOPs per token",
    "Parameters",
    "tokens",
    STEP_TIME,
    "Reached",
    "Runs",
    P_VALUE,
    "seconds",
)


class SpeedupTable:
    """A rich renderable: the arms with their speedups at the headline's target.

    In a narrow terminal, intervals and baselines move to a second line. If that is not enough, names wrap and columns
    are left out, as a note then says. The difference always stays, and no number is cut. Names are not markup.
    """

    def __init__(self, report: Report) -> None:
        self.report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[rich.table.Table]:
        from rich.measure import Measurement

        def measure_spare(drawn: rich.table.Table) -> int:
            return options.max_width - Measurement.get(console, options.update(max_width=WIDEST), drawn).maximum

        whole = tabulate_speedups(self.report) if self.report.headline_rows else tabulate_arms(self.report)
        table = shorten_table(whole, MOST_ROWS)
        drawn = draw_table(table)
        if measure_spare(drawn) < 0:
            table = _put_below(table)
            longest = max(len(line) for row in (table.header, *table.rows) for line in row[0].splitlines())
            least = min(_NAMES, longest)
            for narrow in _narrow(table, AXIS_NAMES[self.report.axis]):
                spare = measure_spare(draw_table(narrow, least))
                if spare >= 0:
                    break
            width = min(longest, max(_NARROWEST, least + spare))
            drawn = draw_table(narrow, width)
            drawn.leading = int(width < longest)  # a blank line between names that wrap
        yield drawn


def format_table(report: Report, width: int = 120) -> str:
    """Write the table as plain text."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(SpeedupTable(report))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _put_below(table: Table) -> Table:
    """Put intervals below their ratios and baselines below the arms."""
    rows = [tuple(cell.replace(" [", "\n[") for cell in row) for row in table.rows]
    if table.header[1] != "Baseline":
        return replace(table, rows=tuple(rows))
    rows = [(f"{arm}\nover {baseline}", *cells) for arm, baseline, *cells in rows]
    return replace(table, header=(table.header[0], *table.header[2:]), rows=tuple(rows))


def _narrow(table: Table, axis: str) -> Iterator[Table]:
    """Yield the table, then the table without one column, without two, and so on.

    The headline's axis of cost and the verdicts go last. Then the interval of the difference breaks in two.
    """
    yield table
    left_out: list[str] = []
    order = (*(name for name in _LEFT_OUT_FIRST if name != axis), axis, VERDICT)
    ranks = {
        name: max((order.index(part) for part in name.split(JOINED) if part in order), default=-1)
        for name in table.header
    }
    for name in sorted((name for name in table.header if ranks[name] >= 0), key=ranks.__getitem__):
        left_out.append(name)
        kept = [index for index, name in enumerate(table.header) if name not in left_out]
        header, *rows = (tuple(cells[index] for index in kept) for cells in (table.header, *table.rows))
        note = f"{table.note}\nLeft out at this width, but on the page: {join_with_and(left_out)}."
        narrow = replace(table, header=header, rows=tuple(rows), note=note.strip())
        yield narrow
    if left_out:
        broken = tuple((name, *(cell.replace(", ", ",\n") for cell in cells)) for name, *cells in narrow.rows)
        yield replace(narrow, rows=broken)


def draw_table(table: Table, width: int | None = None) -> rich.table.Table:
    """Draw the table with names of at most `width` characters, or as wide as they are."""
    import rich.table
    from rich import box
    from rich.text import Text

    note = Text(table.note) if table.note else None
    drawn = rich.table.Table(
        title=Text(table.caption), title_justify="left", caption=note, caption_justify="left", box=box.SIMPLE
    )
    drawn.add_column(Text(table.header[0]), width=width, overflow="fold")
    for name in table.header[1:]:
        broken = name.replace(JOINED, JOINED.rstrip() + "\n") if JOINED in name else name.replace(" ", "\n", 1)
        drawn.add_column(Text(broken), justify="right", overflow="fold")
    for name, *cells in table.rows:
        cells = [cell.removesuffix(" (no interval)") for cell in cells]  # the note gives the reason
        drawn.add_row(Text(_break_words(name, width) if width else name), *map(Text, cells))
    return drawn


def _break_words(name: str, width: int) -> str:
    """Break words longer than `width`, after a punctuation mark if there is one."""
    parts = re.compile(rf"\S{{1,{width}}}(?!\S)|\S{{0,{width - 1}}}[,=_/-]|\S{{{width}}}|\s+")
    return re.sub(r"\S+", lambda word: "\n".join(parts.findall(word[0])), name)
