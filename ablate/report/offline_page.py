"""HTML pages that work offline: a single file with its style, its data, and Vega to draw the charts.

The page's Content-Security-Policy lists the hash of each script and forbids all requests. So the name of an arm or a
study, which may contain anything, cannot run, load or send anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from importlib import resources
from typing import Any

from ablate.report.chart import THEMES, Chart, Choice, configure
from ablate.report.document import Document
from ablate.report.palette import LIGHT, Theme
from ablate.report.vega_script import read_vega


def write_html(document: Document) -> str:
    """The page as one file."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    charts = document.charts
    scripts = [read_vega(), _read_template("page.js")]
    shared = [choice for chart in charts.values() for choice in chart.choices if choice.is_shared]
    return environment.from_string(_read_template("page.html.j2")).render(
        document=document,
        data=embed_json(pack(charts.values())),
        scripts=scripts,
        style="".join(_write_variables(name, theme) for name, theme in THEMES.items()) + _read_template("page.css"),
        policy=" ".join(_hash_script(script) for script in scripts),
        shared=list({choice.name: choice for choice in sorted(shared, key=_count_options)}.values()),
        swatches={swatch.text: swatch for swatch in document.arms.values()},
        variable=_VARIABLES.get,
    )


def pack(charts: Iterable[Chart]) -> dict[str, Any]:
    """The data that the page's script draws. Equal lists are stored once, in `lists`, and named by `@` and a number."""
    lists: dict[str, str] = {}

    def store(value: Any) -> Any:
        if isinstance(value, list) and len(value) > 8:
            return lists.setdefault(json.dumps(value, separators=(",", ":"), allow_nan=False), f"@{len(lists)}")
        return value

    packed = [
        {
            "name": chart.name,
            "spec": chart.spec,
            "fills": chart.fills,
            "choices": [choice.name for choice in chart.choices],
            "shared": [choice.name for choice in chart.choices if choice.is_shared],
            "wide": chart.wide,
            "narrow": chart.narrow,
            "columns": chart.columns,
            "data": {
                name: [{key: store(value) for key, value in row.items()} for row in rows]
                for name, rows in chart.data.items()
            },
        }
        for chart in charts
    ]
    themes = {
        name: {"config": configure(theme), "colors": dict(zip(LIGHT.every, theme.every, strict=True))}
        for name, theme in THEMES.items()
    }
    return {"charts": packed, "lists": [json.loads(text) for text in lists], "themes": themes}


def embed_json(data: Any) -> str:
    """JSON that is safe inside a script element: it cannot end the element or open a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _count_options(choice: Choice) -> int:
    return len(choice.options)


def _name_colors(theme: Theme) -> dict[str, str]:
    """The names of the CSS variables of a theme, with their colors."""
    named: dict[str, str] = {}
    for field in fields(theme):
        value = getattr(theme, field.name)
        named |= (
            {field.name: value} if isinstance(value, str) else {f"{field.name}-{i}": c for i, c in enumerate(value)}
        )
    return named


_VARIABLES: Mapping[str, str] = {color: f"var(--{name})" for name, color in _name_colors(LIGHT).items()}


def _write_variables(name: str, theme: Theme) -> str:
    rule = ":root{" + "".join(f"--{key}:{color};" for key, color in _name_colors(theme).items()) + "}"
    return rule if name == "light" else f"@media screen and (prefers-color-scheme: dark){{{rule}}}"


@cache
def _read_template(name: str) -> str:
    return resources.files("ablate.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash_script(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
