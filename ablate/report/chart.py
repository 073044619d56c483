"""A chart, declared once: a Vega-Lite specification by Altair with blanks, the data, and what fills the blanks.

The page draws it interactively and fills the blanks again with each press of a button. Files and notebooks show the
first option of each choice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ablate.analysis.curve_columns import Floats
from ablate.report.notation import clean_name
from ablate.report.palette import DARK, LIGHT, Theme

if TYPE_CHECKING:
    import altair as alt

WIDTH = 640
"""Pixels of a picture in a file, about the width of a text column."""

DIGITS = 5
"""Significant digits of a drawn number. A screen cannot show more."""

Row = Mapping[str, Any]
Fill = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """A choice that a reader of the page has: the text of each option by its value.

    All charts share a choice such as the axis of cost.
    """

    name: str
    label: str
    options: Mapping[str, str]
    is_shared: bool = False


@dataclass(frozen=True)
class Legend:
    """A line of the legend, which the page shows where there is no room for labels inside a chart."""

    text: str
    color: str
    dash: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Chart:
    """A chart with its choices.

    `spec` is Vega-Lite. A text that begins with `$` is a blank, and so is an expression that does. `fills` maps the
    chosen options, joined by `|`, to the values of the blanks. The blank `data` lists the names of the data sets that
    are drawn together. A row of a data set with lists as values stands for as many rows. `wide` and `narrow` fill the
    blanks that depend on the width of the page.
    """

    kind: ClassVar[str] = "chart"
    name: str
    caption: str
    spec: Fill
    data: Mapping[str, Sequence[Row]]
    fills: Mapping[str, Fill]
    choices: tuple[Choice, ...] = ()
    wide: Fill = field(default_factory=dict)
    narrow: Fill = field(default_factory=dict)
    legend: tuple[Legend, ...] = ()
    columns: int = 1

    @property
    def is_empty(self) -> bool:
        return not any(self.data.values())

    @property
    def pictures(self) -> dict[str, str]:
        """The keys of the pictures in files by their names: one per option that charts do not share."""
        first = next(iter(self.fills)).split("|")
        shared = [place for place, choice in enumerate(self.choices) if choice.is_shared]
        found: dict[str, str] = {}
        for key in self.fills:
            options = key.split("|")
            if all(options[place] == first[place] for place in shared):
                own = [clean_name(option) for place, option in enumerate(options) if place not in shared]
                found["-".join([self.name, *own]) if found else self.name] = key
        return found

    @property
    def _own_legend(self) -> Fill | None:
        """The legend inside a picture, which has no page around it. Labels at the ends of lines need none."""
        if not self.legend or "labels" in self.wide:
            return None
        return {"orient": "bottom", "title": None, "columns": 3, "labelLimit": 240, "symbolType": "stroke"}

    def draw(self, key: str | None = None, theme: Theme = LIGHT) -> dict[str, Any]:
        """The Vega-Lite specification with its data. `key` is one of `fills`, by default the first."""
        fill = self.fills[next(iter(self.fills)) if key is None else key]
        rows = [row for name in fill["data"] for row in spread(self.data[name])]
        width = WIDTH if self.columns == 1 else (WIDTH - 60) // self.columns - 30
        spec: dict[str, Any] = fill_blanks(
            self.spec,
            {"width": width, "columns": self.columns, "legend": self._own_legend, "tips": "false", **self.wide, **fill},
        )
        spec |= {"config": configure(theme), "data": {"name": ROWS, "values": rows}}
        colored: dict[str, Any] = recolor(spec, theme)
        return colored


def declare(
    chart: alt.TopLevelMixin, height: Any, panels: Sequence[str] = ("",), *, has_own_ranges: bool = False
) -> Fill:
    """The specification of an Altair chart of the data `ROWS`, as wide as the blank `width` says.

    With several panels, it is drawn once per value of the field `panel`, in as many columns as the blank `columns`
    says, and with ranges of its own if `has_own_ranges`.
    """
    content: dict[str, Any] = chart.to_dict(validate=False)  # a test draws every chart
    for key in ("config", "$schema", "datasets"):
        content.pop(key, None)
    inner = {**_prepare(content), "width": "$width", "height": height}
    if len(panels) == 1:
        return inner
    facet = {"field": "panel", "type": "nominal", "title": None, "sort": list(panels)}
    resolve = {"scale": {"x": "independent", "y": "independent"}} if has_own_ranges else {}
    return {"facet": facet, "columns": "$columns", "spec": inner, "resolve": resolve}


ROWS = "rows"


def mark_no_difference() -> alt.Chart:
    """The dashed line of no difference. The caller encodes its place."""
    import altair as alt

    one_row = alt.Data(values=[{}])  # type: ignore[no-untyped-call]
    line: alt.Chart = alt.Chart(one_row).mark_rule(color=LIGHT.soft, strokeDash=[4, 3])
    return line


def _prepare(value: Any) -> Any:
    """The specification without the name of the data, which its top level has, and with blanks for its legends."""
    if isinstance(value, dict):
        return {
            key: "$legend" if item == {"title": "$legend"} else _prepare(item)
            for key, item in value.items()
            if not (key == "data" and item == {"name": ROWS})
        }
    return [_prepare(item) for item in value] if isinstance(value, list) else value


def fill_blanks(value: Any, blanks: Fill) -> Any:
    """A specification in which the blanks have their values. Raises `KeyError` for a blank without a value."""
    if isinstance(value, str) and value.startswith("$"):
        return blanks[value[1:]]
    if isinstance(value, Mapping):
        expression = value.get("expr")
        if len(value) == 1 and isinstance(expression, str) and expression.startswith("$"):
            return blanks[expression[1:]]
        return {key: item if key == "data" else fill_blanks(item, blanks) for key, item in value.items()}
    return [fill_blanks(item, blanks) for item in value] if isinstance(value, list | tuple) else value


def recolor(value: Any, theme: Theme) -> Any:
    """A specification in the colors of a theme. It is written in those of the light one."""
    swap = dict(zip(LIGHT.every, theme.every, strict=True))

    def change(item: Any) -> Any:
        if isinstance(item, str):
            return swap.get(item, item)
        if isinstance(item, Mapping):
            return {key: change(part) for key, part in item.items()}
        return [change(part) for part in item] if isinstance(item, list) else item

    return change(value)


def spread(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One row per element of the lists in a row, which have equal lengths. Its other values are repeated."""
    found: list[dict[str, Any]] = []
    for row in rows:
        lists = {key: value for key, value in row.items() if isinstance(value, list)}
        rest = {key: value for key, value in row.items() if key not in lists}
        if lists:
            found += [rest | dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]
        else:
            found.append(rest)
    return found


def configure(theme: Theme) -> dict[str, Any]:
    """The style of all charts, in one theme."""
    font = "system-ui, Helvetica, Arial, sans-serif"
    return {
        "background": theme.paper,
        "font": font,
        "aria": False,  # the page describes the picture, and its table has the numbers
        "view": {"stroke": None},
        "axis": {
            "gridColor": theme.line,
            "domainColor": theme.line,
            "tickColor": theme.line,
            "labelColor": theme.ink,
            "titleColor": theme.soft,
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 12,
            "labelOverlap": "greedy",
        },
        "axisX": {"titleAnchor": "end"},  # so that a long title stays inside a narrow picture
        "header": {"labelColor": theme.ink, "labelFontSize": 12, "labelFontWeight": "bold", "labelAnchor": "start"},
        "legend": {"labelColor": theme.ink, "titleColor": theme.soft, "labelLimit": 220},
        "text": {"color": theme.ink, "fontSize": 11},
    }


def draw_file(chart: Chart, ending: str, key: str | None = None) -> bytes:
    """The chart as `svg`, `pdf` or `png`. `key` is one of its fills.

    The same chart always gives the same bytes as `svg` and `png`.
    """
    import vl_convert

    spec = chart.draw(key)
    if ending == "svg":
        return _number_clips(vl_convert.vegalite_to_svg(spec)).encode()
    content: bytes = vl_convert.vegalite_to_pdf(spec) if ending == "pdf" else vl_convert.vegalite_to_png(spec, scale=2)
    return content


def _number_clips(svg: str) -> str:
    """The picture with its clip paths numbered from 0. Vega counts those of the whole process."""
    names: dict[str, str] = {}

    def rename(found: re.Match[str]) -> str:
        return f"{found[1]}{names.setdefault(found[2], f'clip{len(names)}')}{found[3]}"

    return re.sub(r"""(id="|url\(#)(clip\d+)("|\))""", rename, svg)


def round_number(value: float | None) -> float | None:
    """The number as it is drawn, or None if it is missing."""
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None


def round_list(values: Floats) -> list[float | None]:
    return [round_number(value) for value in values.tolist()]  # Python formats its own numbers faster than numpy's


THEMES = {"light": LIGHT, "dark": DARK}
