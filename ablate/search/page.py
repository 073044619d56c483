"""The pages of a search, `search.html` and `search.md`, with their figures. All are made from `summary.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablate.errors import RecordError, ResourceError
from ablate.files import make_folder, write_atomic
from ablate.formatting import count
from ablate.report.chart import draw_file
from ablate.report.document import Block, Document, Facts, Folded, Section, Text
from ablate.report.markdown import write_markdown
from ablate.report.notation import LISTED, capitalize, join_with_and, name_rest
from ablate.report.offline_page import write_html
from ablate.report.table import Table
from ablate.search.charts import chart_confirmation, list_charts
from ablate.search.conclusions import count_open, state_conclusions
from ablate.search.descriptions import format_share
from ablate.search.tables import tabulate
from ablate.tracking.json_files import read_json

SUMMARY = "summary.json"


def write_pages(summary: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Write all files into the folder `out` and return their paths by name.

    Raises `ResourceError` if it cannot be written.
    """
    document = compose(summary)
    paths = {name: out / name for name in ("search.html", "search.md", SUMMARY)}
    charts = {name: chart for name, chart in document.charts.items() if name.startswith(("history", "confirmation"))}
    try:
        make_folder(out / "figures")
        for name, chart in charts.items():
            write_atomic(out / "figures" / f"{name}.svg", draw_file(chart, "svg"))
        write_atomic(paths[SUMMARY], (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
        write_atomic(
            paths["search.md"], write_markdown(document, {name: f"figures/{name}.svg" for name in charts}).encode()
        )
        write_atomic(paths["search.html"], write_html(document).encode())
    except OSError as error:
        raise ResourceError(f"{out}: the pages cannot be written: {error.strerror or error}") from None
    return paths


def read_summary(folder: Path) -> Mapping[str, Any]:
    """Read the summary of an earlier or published search. Raises `RecordError` if it is missing."""
    summary = read_json(folder / SUMMARY)
    if not isinstance(summary, dict) or "search" not in summary:
        raise RecordError(f"{folder / SUMMARY}: this is not the summary of a search")
    return summary


def compose(summary: Mapping[str, Any]) -> Document:
    """The page of a search: what it found, the confirmation, and a section per arm."""
    tables = {table.name: table for table in tabulate(summary)}
    sections = [*_show_confirmation(summary, tables)]
    sections += [_show_arm(summary, index, tables) for index in range(len(summary["arms"]))]
    sections.append(Section("about", "How this search was made", (Facts(_describe(summary)),)))
    n_open = count_open(summary)
    sentences = tuple(state_conclusions(summary))
    return Document(
        name=summary["search"],
        context=f"{summary['search']}: a search with the sampler {summary['sampler']['name']}",
        heading=summary["question"] or summary["search"],
        verdict=(_describe_tuning(summary),) if summary.get("is_tuning") else sentences[:1],
        answer=sentences if summary.get("is_tuning") else sentences[1:],
        sections=tuple(sections),
        notice=f"This search is not finished: {n_open} trials have not ended." if n_open else "",
    )


def _show_confirmation(summary: Mapping[str, Any], tables: Mapping[str, Table]) -> Iterator[Section]:
    if summary["confirmation"]:
        chart = chart_confirmation(summary)
        shown: tuple[Block, ...] = (
            Text(
                "These runs were trained again with seeds that no trial used. The best of many trials is "
                "optimistically biased, so only this comparison counts."
            ),
            *([] if chart.is_empty else [chart]),
            tables["confirmation"],
        )
        yield Section("confirmation", "Confirmation", shown)


def _show_arm(summary: Mapping[str, Any], index: int, tables: Mapping[str, Table]) -> Section:
    arm = summary["arms"][index]
    lacks = f"; it has no {', '.join(arm['left_out'])}" if arm["left_out"] else ""
    edge = (
        f"The best value is at the edge of its range: {', '.join(arm['at_edge'])}. A wider range may hold a better one."
    )
    blocks: list[Block] = [
        Text(f"{arm['size']}; {arm['n_configurations']} trials{lacks}."),
        *([Text(edge, is_flag=True)] if arm["at_edge"] else []),
        tables[f"settings-{index}"],
        *(chart for chart in list_charts(summary, index) if not chart.is_empty),
        *([tables[f"importance-{index}"]] if f"importance-{index}" in tables else []),
        Folded("All trials", (tables[f"trials-{index}"],)),
    ]
    return Section(f"arm-{index}", arm["arm"], tuple(blocks))


def _describe_tuning(summary: Mapping[str, Any]) -> str:
    """The verdict on a tuning: how many trials the arms had, and which should get a wider range."""
    arms = summary["arms"]
    trials = sorted({arm["n_configurations"] for arm in arms})
    each = str(trials[0]) if len(trials) == 1 else f"{trials[0]} to {trials[-1]}"
    at_edge = [arm["arm"] for arm in arms if arm["at_edge"]]
    edge = f"the best value of {join_with_and(at_edge[:LISTED] + name_rest(at_edge))} is at the edge of its range"
    tuned = f"{count(len(arms), 'arm')} had {each} trials each"
    return f"{capitalize(tuned)}; {edge if at_edge else 'no best value is at the edge of its range'}."


def _describe(summary: Mapping[str, Any]) -> dict[str, str]:
    seeds = f"seeds {', '.join(map(str, summary['seeds']))}"
    if "finalists" in summary:
        share = f" for {format_share(summary['screen'])} of their steps" if "screen" in summary else ""
        seeds = f"with the first seed{share}, the best {summary['finalists']} in full; {seeds}"
    return {
        "made by": f"ablate {summary['version']}",
        "sampler": json.dumps(summary["sampler"]),
        "pruner": json.dumps(summary["pruner"]),
        "objectives": ", ".join(objective["text"] for objective in summary["objectives"]),
        "trials per arm": f"at most {summary['trials']}, the defaults first; {seeds}",
        "scope of a trial": summary["scope"],
        **{f"data {name}": str(value) for name, value in summary["data"].items()},
    }
