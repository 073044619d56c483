"""The forest plot of the verdicts as text that a terminal shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ablate.analysis.differences import Difference
from ablate.report.notation import elide
from ablate.report.report import Report

MAX_ROWS = 20
_POINTS = {"better": "●", "worse": "●", "equivalent": "○", "undecided": "○"}  # filled: clearly on one side of zero
_LEAST_ROOM = 24  # characters for the intervals


def plot_differences(report: Report, width: int = 100) -> list[str]:
    """One line per arm, the best first: its name, and its difference with its interval around zero.

    Empty if no arm has an interval, or if the terminal is too narrow.
    """
    metric = report.metric
    rows = [row for row in report.differences if row.low_simultaneous is not None and row.high_simultaneous is not None]
    rows = sorted(rows, key=lambda row: metric.orient(row.estimate))[:MAX_ROWS]
    longest = min(max((len(report.labels[row.arm]) for row in rows), default=0), 40)
    room = min(width - longest - 2, 72)
    if not rows or room < _LEAST_ROOM:
        return []
    ends = [end for row in rows for end in (row.low_simultaneous, row.high_simultaneous, 0.0) if end is not None]
    low, high = min(ends), max(ends)

    def place(value: float) -> int:
        return round((value - low) / (high - low) * (room - 1))

    lines = [f"{elide(report.labels[row.arm], longest):<{longest}}  {_draw(row, place, room)}" for row in rows]
    return [*lines, f"{'':<{longest}}  {_label(low, high, place(0.0), room)}", *_tell_rest(report, len(rows))]


def _draw(row: Difference, place: Callable[[float], int], room: int) -> str:
    assert row.low_simultaneous is not None and row.high_simultaneous is not None
    cells = [" "] * room
    cells[place(0.0)] = "│"
    first, last = place(row.low_simultaneous), place(row.high_simultaneous)
    cells[first : last + 1] = "─" * (last - first + 1)
    if first < place(0.0) < last:
        cells[place(0.0)] = "┼"
    cells[place(row.estimate)] = _POINTS[row.verdict]
    return "".join(cells).rstrip()


def _label(low: float, high: float, zero: int, room: int) -> str:
    """The ends of the axis, and zero where it is."""
    left, right = f"{low:+.3g}" if low else "0", f"{high:+.3g}" if high else "0"
    cells = list(left.ljust(room))
    cells[room - len(right) :] = right
    if len(left) < zero < room - len(right) - 1:
        cells[zero] = "0"
    return "".join(cells)


def _tell_rest(report: Report, n_shown: int) -> Iterator[str]:
    if len(report.differences) > n_shown:
        yield f"({n_shown} of {len(report.differences)} arms; the table has the others)"
