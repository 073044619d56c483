"""Static pictures by matplotlib, for Markdown and papers. The same data writes the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.report.content import Report
from ablate.report.drawing import draw_column
from ablate.report.palette import Look, assign_looks
from ablate.report.words import AXIS_NAMES, shorten, write_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = {
    "svg.hashsalt": "ablate",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "text.parse_math": False,  # a dollar in an arm's name is a dollar
    "figure.constrained_layout.use": True,
}


def draw_pictures(report: Report) -> dict[str, Figure]:
    """The figures by name: `curves`, and `speedup` where arms are compared."""
    import matplotlib as mpl

    looks = assign_looks(report.arms)
    with mpl.rc_context(_STYLE):
        figures = {"curves": draw_curves(report, looks)}
        if report.headline_rows:
            figures["speedup"] = draw_speed_ups(report, looks)
    return figures


def save_picture(figure: Figure, path: Path) -> None:
    """Write as SVG or PDF, whichever the suffix says, without a date."""
    import matplotlib as mpl

    dated: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # a name may be in any script
        figure.savefig(path, metadata=dated)


def draw_curves(report: Report, looks: Mapping[str, Look]) -> Figure:
    """Validation loss against cost, a line an arm, with the band of the extremes over seeds."""
    axis = report.options.axis
    lines = draw_column(report.results, "val_loss", report.axes)
    figure, ax = _new_figure(6.4, 3.8)
    for line in lines:
        look, label = looks[line.arm], shorten(report.labels[line.arm]) + (f", {line.state}" if line.state else "")
        style: Any = (0, look.strokes) if look.strokes else "solid"
        width = 1.6 if not line.state else 0.8
        ax.plot(line.costs[axis], line.mean, color=look.color, linestyle=style, linewidth=width, label=label)
        if line.n_runs > 1:
            ax.fill_between(line.costs[axis], line.low, line.high, color=look.color, alpha=0.18, linewidth=0)
    if lines:
        ax.set_xscale("log")
        ax.legend(frameon=False, fontsize=7, ncols=1 if len(lines) < 10 else 2)
    ax.set_xlabel(AXIS_NAMES[axis])
    ax.set_ylabel("validation loss (nats a token)")
    return figure


def draw_speed_ups(report: Report, looks: Mapping[str, Look]) -> Figure:
    """One point an arm on the headline's axis, with its interval; an arrow where there is only a bound."""
    axis = report.options.axis
    rows = [row for row in report.headline_rows if row.axis == axis]
    figure, ax = _new_figure(6.4, 1.2 + 0.32 * len(rows))
    for y, row in enumerate(reversed(rows)):
        color = looks[row.arm].color
        if row.ratio is not None:
            ax.plot([row.ratio], [y], "o", color=color)
            if row.low is not None and row.high is not None:
                ax.plot([row.low, row.high], [y, y], color=color, linewidth=1.6)
        elif (bound := row.high or row.low) is not None:
            ax.plot([bound], [y], "<" if row.bound == "at_most" else ">", color=color)
    ax.axvline(1.0, color="#6b7280", linewidth=1, linestyle="--")
    ax.set_yticks(range(len(rows)), [shorten(report.labels[row.arm]) for row in reversed(rows)])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xscale("log")
    _label_ratios(ax)
    ax.set_xlabel(f"speed-up in {AXIS_NAMES[axis]} to {write_target(report.options.headline)}")
    return figure


def _label_ratios(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    ax.set_xlim(min(low, 0.8), max(high, 1.25))
    ax.xaxis.set_major_locator(LogLocator(subs=(0.5, 0.7, 1.0, 1.4, 2.0, 3.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()
