"""Static figures by matplotlib, for Markdown and papers. The same data always give the same bytes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from ablate.analysis.effects import FINAL
from ablate.analysis.speedup import SpeedUp
from ablate.analysis.trend import Trend
from ablate.metrics import Metric
from ablate.report.effect_tables import caption_differences, explain_sign, name_levels
from ablate.report.growth_and_interactions import name_family
from ablate.report.notation import AXIS_NAMES, clean_name, format_target, label_targets, shorten, shorten_target
from ablate.report.palette import Look, assign_looks
from ablate.report.report import Report
from ablate.report.thinned_curves import find_loss_range, thin_curves, thin_diagnostics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

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
MAX_NAMED, MAX_ROWS = 20, 40
"""The most lines that a legend names, and the most rows of a figure. The HTML page shows the others."""

_NEUTRAL = "#6b7280"
_WIDTH = 6.4  # inches, the width of a text column


def caption_figures(report: Report) -> dict[str, str]:
    """The caption of each figure by its name. Figures of diagnostics have no caption."""
    metric, differences = report.metric, caption_differences(report)
    goal = format_target(report.options.headline, metric)
    return {
        "curves": f"{metric.title} against cost; the band spans the lowest to the highest seed",
        "speedup": f"Speedup of each arm to {goal}, with 95 % intervals; {_BOUNDS}",
        "ladder": f"Speedup against target, with 95 % intervals; {_BOUNDS}",
        "differences": f"{differences}, with simultaneous 95 % intervals; {explain_sign(metric)}",
        "effects": (
            f"Effects of each axis on the final {metric.label}, averaged over the others, with simultaneous 95 % "
            "intervals"
        ),
    } | {
        name: f"Speedup to the baseline's final {metric.short} along {trends[0].along}, with 95 % intervals; {_BOUNDS}"
        for name, trends in report.growth_figures.items()
    }


_BOUNDS = "an open triangle marks a bound"


def draw_pictures(report: Report) -> dict[str, Figure]:
    """Draw the figures by name.

    They are `curves`, `speedup` if arms are compared, `growth` per numeric axis of `compare_within`, and with
    `options.figures` all others.
    """
    looks = assign_looks(report.arms)
    with styled():
        figures = {"curves": draw_curves(report, looks)}
        if report.headline_rows:
            figures["speedup"] = draw_speedups(report, looks)
        for name, trends in report.growth_figures.items():
            figures[name] = draw_growth(report, looks, trends)
        if report.options.figures:
            figures |= _draw_others(report, looks)
    return figures


def styled() -> AbstractContextManager[None]:
    """A context in which figures get the report's style."""
    import matplotlib as mpl

    context: AbstractContextManager[None] = mpl.rc_context(_STYLE)
    return context


def save_picture(figure: Figure, ending: str, file: BinaryIO) -> None:
    """Write as `svg` or `pdf`, without a date, so that the bytes do not change."""
    dated: dict[str, Any] = {"Date": None} if ending == "svg" else {"CreationDate": None}
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # a name may be in any script
        figure.savefig(file, format=ending, metadata=dated)


def draw_curves(report: Report, looks: Mapping[str, Look]) -> Figure:
    """Draw the metric against cost, one line per arm, with a band from the lowest to the highest seed."""
    axis, metric = report.axis, report.metric
    lines = thin_curves(report.results, metric.name, report.axes)
    figure, ax = _new_figure(3.8)
    for line in lines:
        look, label = looks[line.arm], shorten(report.labels[line.arm]) + (f", {line.state}" if line.state else "")
        width = 1.6 if not line.state else 0.8
        ax.plot(line.costs[axis], line.mean, linewidth=width, label=label, **_style(look))
        if line.n_runs > 1:
            ax.fill_between(line.costs[axis], line.low, line.high, color=look.color, alpha=0.18, linewidth=0)
    if lines:
        ax.set_xscale("log")
        _name_lines(ax, len(lines))
    _label_costs(ax, axis)
    ax.set_ylabel(metric.full_label)
    if bounds := find_loss_range(lines, metric):
        ax.set_ylim(*bounds)
        ax.set_ylabel(f"{metric.full_label}, cut at {metric.worse_end(bounds):.3g}")
    return figure


def draw_speedups(report: Report, looks: Mapping[str, Look]) -> Figure:
    """Draw one point per arm on the headline's axis, with its interval, or an open triangle for a bound."""
    axis = report.axis
    every = [row for row in report.headline_rows if row.axis == axis]
    rows = _keep_largest(every, lambda row: _value(row) or 0.0)
    figure, ax = _new_figure(1.2 + 0.32 * len(rows))
    for y, row in enumerate(rows):
        color = looks[row.arm].color
        if (value := _value(row)) is not None:
            ax.plot([value], [y], color=color, **_marker(row, "<", ">"))
        if row.ratio is not None and row.low is not None and row.high is not None:
            ax.plot([row.low, row.high], [y, y], color=color, linewidth=1.6)
    ax.axvline(1.0, color=_NEUTRAL, linewidth=1, linestyle="--")
    _name_rows(ax, [report.labels[row.arm] for row in rows])
    ax.set_xscale("log")
    ax.set_xlim(*_widen(ax.get_xlim()))
    _label_ratios(ax.xaxis)
    goal = format_target(report.options.headline, report.metric)
    ax.set_xlabel(f"speedup in {AXIS_NAMES[axis]} to {goal}{_tell_kept(rows, every)}")
    return figure


def _draw_others(report: Report, looks: Mapping[str, Look]) -> dict[str, Figure]:
    figures = {}
    if report.rows:
        figures["ladder"] = draw_ladder(report, looks)
    differences = [(report.labels[e.arm], e, looks[e.arm].color) for e in report.differences]
    effects = [(name_levels(e), e, _NEUTRAL) for e in report.effects if e.outcome == FINAL]
    for name, items in (("differences", differences), ("effects", effects)):
        if items:
            figures[name] = _draw_contrasts(items, report.metric)
    for group, curves in thin_diagnostics(report.results, (report.axis,)).items():
        figure, ax = _new_figure(3.2)
        for curve in curves:
            for depth, values in enumerate(curve.layers.values()):
                alpha = (depth + 1) / len(curve.layers)
                ax.plot(curve.costs[report.axis], values, alpha=alpha, linewidth=1, **_style(looks[curve.arm]))
        _label_costs(ax, report.axis)
        ax.set_ylabel(group)
        figures[f"diagnostic-{clean_name(group)}"] = figure
    return figures


def draw_ladder(report: Report, looks: Mapping[str, Look]) -> Figure:
    """Draw one line per arm over the targets, on the headline's axis, with intervals."""
    axis, targets = report.axis, report.options.targets
    figure, ax = _new_figure(3.2)
    n_arms = len(report.results.compared_arms)
    for place, arm in enumerate(report.results.compared_arms):
        aside = 0.4 * (place / (n_arms - 1) - 0.5) if n_arms > 1 else 0.0  # so that intervals do not overlap
        rows = {row.target: row for row in report.rows if (row.arm, row.axis) == (arm, axis)}
        points = [(x + aside, rows[target]) for x, target in enumerate(targets)]
        _join_ratios(ax, points, shorten(report.labels[arm]), looks[arm])
    ax.set_xticks(range(len(targets)), [shorten_target(target) for target in targets])
    ax.set_xlabel(label_targets(targets, report.metric))
    _finish_ratios(ax, axis, len(report.results.compared_arms))
    return figure


def draw_growth(report: Report, looks: Mapping[str, Look], trends: Sequence[Trend]) -> Figure:
    """Draw one line per family of arms over the levels of a numeric axis, on the headline's axis, with intervals."""
    figure, ax = _new_figure(3.2)
    rows = {row.arm: row for row in report.rows if (row.axis, row.target) == (report.axis, "final")}
    for place, trend in enumerate(trends):
        aside = 1 + 0.04 * (place - (len(trends) - 1) / 2)  # so that intervals do not overlap
        points = [(level * aside, rows[arm]) for level, arm in zip(trend.levels, trend.arms, strict=True)]
        _join_ratios(ax, points, shorten(name_family(trend)), looks[trend.arms[-1]])
    levels = sorted({level for trend in trends for level in trend.levels})
    ax.set_xscale("log")
    ax.set_xticks(levels, [f"{level:g}" for level in levels])
    ax.minorticks_off()
    ax.set_xlabel(shorten(trends[0].along))
    _finish_ratios(ax, report.axis, len(trends))
    return figure


def _join_ratios(ax: Axes, points: Sequence[tuple[float, SpeedUp]], label: str, look: Look) -> None:
    """Draw a line through neighboring ratios with their intervals. The line breaks at a bound, which is a marker."""
    ratios = [math.nan if row.ratio is None else row.ratio for _, row in points]
    ax.plot([x for x, _ in points], ratios, label=label, **_style(look))
    for x, row in points:
        if (value := _value(row)) is not None:
            ax.plot([x], [value], color=look.color, **_marker(row, "v", "^"))
        if row.ratio is not None and row.low is not None and row.high is not None:
            ax.plot([x, x], [row.low, row.high], color=look.color)


def _finish_ratios(ax: Axes, axis: str, n_lines: int) -> None:
    ax.axhline(1.0, color=_NEUTRAL, linewidth=1, linestyle="--")
    ax.set_yscale("log")
    ax.set_ylim(*_widen(ax.get_ylim()))
    _label_ratios(ax.yaxis)
    ax.set_ylabel(f"speedup in {AXIS_NAMES[axis]}")
    _name_lines(ax, n_lines)


def _draw_contrasts(items: Sequence[tuple[str, Any, str]], metric: Metric) -> Figure:
    """Draw one bar per contrast, from zero, with its interval."""
    rows = _keep_largest(items, lambda item: abs(item[1].estimate))
    figure, ax = _new_figure(1.2 + 0.32 * len(rows))
    for y, (_, effect, color) in enumerate(rows):
        ax.barh([y], [effect.estimate], color=color, alpha=0.6, height=0.6)
        if effect.low_simultaneous is not None:
            ax.plot([effect.low_simultaneous, effect.high_simultaneous], [y, y], color=color, linewidth=1.6)
    ax.axvline(0.0, color=_NEUTRAL, linewidth=1)
    _name_rows(ax, [label for label, _, _ in rows])
    ax.set_xlabel(f"difference in final {metric.full_label}{_tell_kept(rows, items)}")
    return figure


def _keep_largest(items: Sequence[T], size: Callable[[T], float]) -> list[T]:
    """The `MAX_ROWS` largest items, in reverse order, because a figure is filled from the bottom."""
    kept = set(sorted(range(len(items)), key=lambda index: -size(items[index]))[:MAX_ROWS])
    return [items[index] for index in reversed(range(len(items))) if index in kept]


def _tell_kept(kept: Sequence[Any], items: Sequence[Any]) -> str:
    return f" (the {len(kept)} largest of {len(items)})" if len(kept) < len(items) else ""


def _name_lines(ax: Axes, n_lines: int) -> None:
    if n_lines <= MAX_NAMED:
        ax.legend(frameon=False, fontsize=7, ncols=1 if n_lines < 10 else 2)


def _value(row: SpeedUp) -> float | None:
    """The value to draw: the ratio, or the value of the bound."""
    return row.ratio if row.ratio is not None else row.high if row.high is not None else row.low


def _marker(row: SpeedUp, at_most: str, at_least: str) -> dict[str, Any]:
    """A filled circle for a ratio, or an open triangle that points to the possible values for a bound."""
    if row.ratio is not None:
        return {"marker": "o"}
    return {"marker": at_most if row.bound == "at_most" else at_least, "markerfacecolor": "none", "linestyle": "none"}


def _style(look: Look) -> dict[str, Any]:
    return {"color": look.color, "linestyle": (0, look.strokes) if look.strokes else "solid"}


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), [shorten(name) for name in names])
    ax.set_ylim(-0.6, len(names) - 0.4)


def _widen(limits: tuple[float, float]) -> tuple[float, float]:
    return min(limits[0], 0.8), max(limits[1], 1.25)


def _label_costs(ax: Axes, axis: str) -> None:
    from matplotlib.ticker import EngFormatter, NullFormatter

    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(AXIS_NAMES[axis])


def _label_ratios(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(0.5, 0.7, 1.0, 1.4, 2.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axis.set_minor_locator(NullLocator())


def _new_figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    return figure, figure.add_subplot()
