"""The pages of a search, `search.html` and `search.md`, with their figures. All are made from `summary.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.errors import RecordError, ResourceError
from ablate.files import make_folder, write_atomic
from ablate.report.markdown import escape, write_table
from ablate.report.offline_page import read_template, render_page
from ablate.report.pictures import save_picture, styled
from ablate.report.table import Table
from ablate.search.conclusions import count_open, state_conclusions
from ablate.search.descriptions import metric_of
from ablate.search.tables import tabulate
from ablate.tracking.folders import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUMMARY = "summary.json"
PACKAGE = "ablate.search"


def write_pages(summary: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Write all files into the folder `out` and return their paths by name.

    Raises `ResourceError` if it cannot be written.
    """
    tables = tabulate(summary)
    paths = {name: out / name for name in ("search.html", "search.md", SUMMARY)}
    pictures = {f"history-{index}.svg": _draw_history(summary, arm) for index, arm in enumerate(summary["arms"])}
    try:
        make_folder(out / "figures")
        for name, figure in pictures.items():
            write_atomic(out / "figures" / name, partial(save_picture, figure, "svg"))
        write_atomic(paths[SUMMARY], (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
        write_atomic(paths["search.md"], _write_markdown(summary, tables, pictures).encode())
        write_atomic(paths["search.html"], _write_html(summary, tables).encode())
    except OSError as error:
        raise ResourceError(f"{out}: the pages cannot be written: {error.strerror or error}") from None
    return paths


def read_summary(folder: Path) -> Mapping[str, Any]:
    """Read the summary of an earlier or published search. Raises `RecordError` if it is missing."""
    summary = read_json(folder / SUMMARY)
    if not isinstance(summary, dict) or "search" not in summary:
        raise RecordError(f"{folder / SUMMARY}: this is not the summary of a search")
    return summary


def _write_html(summary: Mapping[str, Any], tables: list[Table]) -> str:
    return render_page(
        read_template("search.html.j2", PACKAGE),
        read_template("search.js", PACKAGE),
        {key: summary[key] for key in ("arms", "objectives", "confirmation")}
        | {"metric": metric_of(summary).full_label},
        summary=summary,
        sentences=state_conclusions(summary),
        metric=metric_of(summary),
        tables={table.name: table for table in tables},
        n_open=count_open(summary),
    )


def _write_markdown(summary: Mapping[str, Any], tables: list[Table], pictures: Mapping[str, Figure]) -> str:
    parts = [f"# {escape(summary['question'] or summary['search'])}", *map(escape, state_conclusions(summary))]
    if count_open(summary):
        parts.append(f"**This search is not finished: {count_open(summary)} trials have not ended.**")
    parts += [f"![The value of each trial and the best so far](figures/{name})" for name in pictures]
    parts += map(write_table, tables)
    parts.append(
        f"Made by ablate {summary['version']} with {summary['sampler']['name']}, data {summary['data']['hash'][:12]}."
    )
    return "\n\n".join(parts) + "\n"


def _draw_history(summary: Mapping[str, Any], arm: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    rows = [row for row in arm["history"] if row["values"]]
    objective = summary["objectives"][0]
    better = min if objective["direction"] == "minimize" else max
    values = [row["values"][0] for row in rows]
    with styled():
        figure = Figure(figsize=(6.4, 3.0))
        axes = figure.subplots()
        axes.plot([row["number"] for row in rows], values, "o", color="#0072b2", label="trial")
        best = [better(values[: index + 1]) for index in range(len(values))]
        axes.step([row["number"] for row in rows], best, where="post", color="#d55e00", label="best so far")
        for row in rows:
            if row["number"] == arm["default"]:
                axes.axhline(row["values"][0], color="#6b7280", linestyle="--", label="defaults")
        axes.set(xlabel="trial", ylabel=objective["text"], title=arm["arm"])
        if rows:
            axes.legend()
    return figure
