"""The look of everything that the verbs print."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

WIDTH = 200  # of what a pipe or a file gets


def open_console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def make_table(texts: Iterable[str], numbers: Iterable[str] = ()) -> Table:
    """A table without lines: columns of text, which wrap, then columns of numbers, aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def print_plain(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: paths and commands are neither wrapped nor colored, and brackets are not markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
