"""Forest plots: one row per arm with its value and its interval, around the line of no difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ablate.report.chart import ROWS, Chart, Choice, Legend, declare, mark_no_difference, round_number
from ablate.report.notation import elide

MAX_ROWS = 40
"""The most rows of a forest plot: those with the largest values. Its table has the others."""

ARROW_LEFT = "M0,-0.7L0,0.7M0,0L-2,0M-1.3,-0.55L-2,0L-1.3,0.55"
ARROW_RIGHT = "M0,-0.7L0,0.7M0,0L2,0M1.3,-0.55L2,0L1.3,0.55"
ARROW_DOWN = "M-0.7,0L0.7,0M0,0L0,2M-0.55,1.3L0,2L0.55,1.3"
ARROW_UP = "M-0.7,0L0.7,0M0,0L0,-2M-0.55,-1.3L0,-2L0.55,-1.3"
"""Open arrows for bounds. Each starts at the bound and points to the values that are possible."""

RATIO_TICKS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2, 3, 5, 10, 20, 50, 100]

_NAME_WIDTH, _NAME_LENGTH = 330, 52


@dataclass(frozen=True)
class ForestRow:
    """A row: its name, its panel and group, the value with its interval, and what it says in words.

    `bound` is `at_most` or `at_least` for a value that is a bound.
    """

    name: str
    panel: str
    group: str
    value: float
    low: float | None
    high: float | None
    text: str
    arm: str = ""
    bound: str = ""


def chart_forest(
    name: str,
    caption: str,
    rows: Mapping[str, Sequence[ForestRow]],
    titles: Mapping[str, str],
    colors: Mapping[str, str],
    choice: Choice | None = None,
    panels: Sequence[str] = ("",),
    *,
    is_ratio: bool = False,
) -> Chart:
    """A forest plot. `rows` and the axis's `titles` are by the options of the choice. The first row is at the top.

    Ratios have a logarithmic axis.
    """
    data, fills = {}, {}
    longest = max((len(row.name) for mine in rows.values() for row in mine), default=0)
    for option, mine in rows.items():
        kept = _keep_largest(mine, 1.0 if is_ratio else 0.0)
        data[option or "rows"] = _write_rows(kept, panels)
        title = titles[option]
        if len(kept) < len(mine):
            title += f" (the {len(kept)} largest of {len(mine)})"
        fills[option] = {
            "data": (option or "rows",),
            "x_title": title,
            "ratio_title": title,
            **_find_ratios(kept if is_ratio else []),
        }
    groups = {row.group for mine in rows.values() for row in mine}
    legend = tuple(Legend(text, color) for text, color in colors.items() if text in groups)
    room = min(_NAME_WIDTH, 12 + int(6.4 * min(longest, _NAME_LENGTH)))
    return Chart(
        name,
        caption,
        _declare(tuple(colors.items()), is_ratio=is_ratio),
        data,
        fills,
        (choice,) if choice else (),
        wide={"above": "false", "beside": "true", "step": 26, "shift": 0, "indent": 8 - room, "width": 620 - room},
        narrow={"above": "true", "beside": "false", "step": 38, "shift": 6, "indent": 0},
        legend=legend if len(legend) > 1 else (),
    )


def _write_rows(rows: Sequence[ForestRow], panels: Sequence[str]) -> list[dict[str, Any]]:
    """The rows in their order, panel by panel if there are several, each under its name."""
    shown = [panel for panel in panels if any(row.panel == panel for row in rows)]
    found: list[dict[str, Any]] = []
    for panel in shown:
        if len(shown) > 1:
            found.append({"place": len(found), "heading": panel, "bound": "none"})
        found += [_write_row(row, len(found) + i) for i, row in enumerate(row for row in rows if row.panel == panel)]
    return found


def _write_row(row: ForestRow, place: int) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "name": elide(row.name, _NAME_LENGTH),
        "place": place,
        "group": row.group,
        "value": round_number(row.value),
        "low": round_number(row.low),
        "high": round_number(row.high),
        "bound": row.bound,
        "text": row.text,
    }


def _keep_largest(rows: Sequence[ForestRow], center: float) -> list[ForestRow]:
    kept = sorted(range(len(rows)), key=lambda index: -abs(rows[index].value - center))[:MAX_ROWS]
    return [rows[index] for index in sorted(kept)]


def _find_ratios(rows: Sequence[ForestRow]) -> dict[str, Any]:
    """The domain and the ticks of a logarithmic axis: at least 0.8 to 1.25."""
    if not rows:
        return {}
    return ratio_axis([end for row in rows for end in (row.low, row.high, row.value)])


def ratio_axis(ends: Sequence[float | None]) -> dict[str, Any]:
    """The blanks `domain` and `ticks` of a logarithmic axis of ratios, at least 0.8 to 1.25."""
    known = [end for end in ends if end is not None and end > 0]
    low, high = min([0.8, *(0.96 * end for end in known)]), max([1.25, *(1.04 * end for end in known)])
    inside = [tick for tick in RATIO_TICKS if low <= tick <= high]
    while len(inside) > 9:
        inside = [tick for i, tick in enumerate(inside) if tick == 1 or (i - inside.index(1.0)) % 2 == 0]
    return {"domain": [low, high], "ticks": inside}


@cache
def _declare(colors: tuple[tuple[str, str], ...], *, is_ratio: bool) -> Mapping[str, Any]:
    import altair as alt

    y = alt.Y("place:O", title=None, axis=alt.Axis(labels=False, ticks=False, domain=False, grid=False))
    x = ratio_of("value", alt.X) if is_ratio else alt.X("value:Q", title="$x_title", axis=alt.Axis(tickCount=6))
    color = alt.Color(
        "group:N",
        scale=alt.Scale(domain=[group for group, _ in colors], range=[hex_ for _, hex_ in colors]),
        legend=alt.Legend(title="$legend"),
    )
    arrows = alt.Scale(domain=["at_most", "at_least"], range=[ARROW_LEFT, ARROW_RIGHT])
    tips = [alt.Tooltip("name:N", title="arm"), alt.Tooltip("text:N", title="value")]
    shift = alt.ExprRef("$shift")  # on a phone, names are above the intervals
    base = alt.Chart(alt.NamedData(ROWS))
    known = base.transform_filter("datum.bound == ''")
    bounds = base.transform_filter("datum.bound == 'at_most' || datum.bound == 'at_least'")
    layers = [
        mark_no_difference().encode(x=alt.datum(1 if is_ratio else 0)),
        known.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=2, yOffset=shift)
        .encode(y=y, x=alt.X("low:Q"), x2="high:Q", color=color, tooltip=tips),
        known.mark_point(filled=True, opacity=1, size=80, yOffset=shift).encode(y=y, x=x, color=color, tooltip=tips),
        bounds.mark_point(filled=False, opacity=1, size=150, strokeWidth=1.8, yOffset=shift).encode(
            y=y, x=x, color=color, shape=alt.Shape("bound:N", scale=arrows, legend=None), tooltip=tips
        ),
        base.transform_filter("isValid(datum.heading)")
        .mark_text(
            align="left", baseline="middle", fontWeight="bold", dx=alt.ExprRef("$indent"), limit=alt.ExprRef("width")
        )
        .encode(y=y, x=alt.value(0), text="heading:N"),
        base.transform_filter("isValid(datum.name)")
        .transform_filter("$above")
        .mark_text(align="left", baseline="bottom", yOffset=-1, limit=alt.ExprRef("width"))
        .encode(y=y, x=alt.value(0), text="name:N"),
        base.transform_filter("isValid(datum.name)")
        .transform_filter("$beside")
        .mark_text(align="right", baseline="middle", dx=-10, limit=_NAME_WIDTH)
        .encode(y=y, x=alt.value(0), text="name:N"),
    ]
    return declare(alt.layer(*layers), {"step": "$step"})


def ratio_of(field: str, channel: Any) -> Any:
    """The encoding of a ratio on a logarithmic axis. `channel` is a class such as `alt.X`."""
    import altair as alt

    axis = alt.Axis(values=alt.ExprRef("$ticks"), labelExpr="datum.label + 'x'", format="~g")
    scale = alt.Scale(type="log", domain=alt.ExprRef("$domain"), nice=False)
    return channel(f"{field}:Q", title="$ratio_title", axis=axis, scale=scale)
