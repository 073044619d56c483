"""What `ablate report` prints."""

from __future__ import annotations

import os

from rich.console import Console

from ablate.report import WIDEST, Report, SpeedupTable, plot_differences
from ablate.report.tables import brief_evaluation_tables
from ablate.report.terminal import draw_table
from ablate.report.verifications import describe_verification

REPORTED_ROWS = 12  # of all evaluations, which `ablate evaluate` shows longer


def print_report(made: Report) -> None:
    """The verdict, the forest plot, the table, and the longer answer."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDEST
    for sentence in (*made.verdict, *map(describe_verification, made.verifications)):
        console.print(sentence, style="bold", highlight=False, markup=False)
    if console.encoding.startswith("utf") and (plot := plot_differences(made, console.width)):
        console.print("\n".join(["", *plot]), highlight=False, markup=False, soft_wrap=True)
    console.print(SpeedupTable(made))
    for sentence in made.answer:
        console.print(sentence, highlight=False, markup=False)
    for table in brief_evaluation_tables(made, REPORTED_ROWS):
        console.print(draw_table(table))
    console.print(f"\nPage: {made.paths['html'].resolve()}", highlight=False, markup=False, soft_wrap=True)
