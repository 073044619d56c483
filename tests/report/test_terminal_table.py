"""The table of speedups in a terminal never truncates a number, at any width."""

import io
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from ablate.analysis.evaluations import EvaluationResult
from ablate.report import ReportOptions, format_table
from ablate.report.evaluation_tables import count_verdicts, summarize_evaluations
from ablate.report.report import make_report
from ablate.report.tables import tabulate_arms, tabulate_speedups
from ablate.report.terminal import draw_table
from ablate.report.write import read_studies
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study


def arms_within(*lengths):
    """ngpt against prenorm at its context length, from clearly slower to clearly faster."""
    for length in lengths:
        within, base = {"context_length": length}, f"prenorm,{length}"
        yield SyntheticArm(base, {"normalization": "prenorm"} | within, base, within)
        yield SyntheticArm(f"ngpt,{length}", {"normalization": "ngpt"} | within, base, within, speedup=length / 1000)


STUDIES = {
    "factorial": [
        SyntheticArm(f"{attention},{norm}", {"attention": attention, "norm": norm}, "standard,prenorm", speedup=speedup)
        for attention, norm, speedup in (
            ("standard", "prenorm", 1.0),
            ("linear_ensemble of 4", "prenorm", 0.7),
            ("linear_ensemble of 4", "ngpt", 131.0),
            ("differential", "ngpt", 14.0),
        )
    ],
    "within": list(arms_within(256, 1024, 4096)),
    "foreign": [SyntheticArm("baseline"), SyntheticArm("gpt2-small-lr3e-4,wd=0.1,bs=512_cosine_" + 30 * "x")],
    "alone": [SyntheticArm("baseline", {"kind": "plain"})],
}
WIDTHS = (30, 60, 80, 120)


@pytest.fixture(scope="module", params=STUDIES)
def made(request, tmp_path_factory):
    store = StudyFolder(tmp_path_factory.mktemp("terminal") / request.param)
    write_study(store, STUDIES[request.param], noise=0.05)
    return make_report(read_studies([store]), ReportOptions())


def read(text):
    """The number of times that each word is printed, and the columns that the note calls left out."""
    body, _, note = " ".join(text.split()).partition("Left out at this width, but on the page: ")
    return Counter(body.split()), note.removesuffix(".").replace(" and ", ", ").split(", ") if note else []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_whole_or_its_column_is_said_to_be_on_the_page(made, width):
    text = format_table(made, width)
    assert max(map(len, text.splitlines())) <= width and "\N{HORIZONTAL ELLIPSIS}" not in text
    printed, left_out = read(text)
    table = tabulate_speedups(made) if made.headline_rows else tabulate_arms(made)
    columns = zip(table.header, *table.rows, strict=True)
    whole = [column for column in columns if column[0] not in ("Arm", "Baseline", *left_out)]
    assert whole and Counter(word for column in whole for cell in column for word in cell.split()) <= printed


def test_the_wider_the_more_columns_and_the_difference_at_any_width(made):
    lost = [set(read(format_table(made, width))[1]) for width in range(24, 200, 4)]
    assert all(wider <= narrower for narrower, wider in pairwise(lost))
    assert lost[0] and not lost[-1] and not lost[0] & {"Arm", "Loss difference", "Final validation loss"}


def test_a_long_name_breaks_after_a_mark_and_loses_nothing(tmp_path):
    store = StudyFolder(tmp_path / "foreign")
    name = STUDIES["foreign"][1].arm
    write_study(store, STUDIES["foreign"])
    made = make_report(read_studies([store]), ReportOptions())
    for width in range(20, 120, 7):
        rows = format_table(made, width).split("\N{BOX DRAWINGS LIGHT HORIZONTAL}\n")[1].split("\n\n")[0].splitlines()
        parts = [row.split()[0] for row in rows]
        assert "".join(parts) == name
        assert width < 50 or parts[0].endswith((",", "=", "_", "-"))


@pytest.mark.parametrize("width", [100, 140])
def test_evaluations_filled_the_terminal(width):
    """A study with 10 evaluations printed 580 lines."""
    summary = json.loads((Path(__file__).parents[2] / "reports/wiki-33m/summary.json").read_text())
    rows = [EvaluationResult(**row) for row in summary["evaluations"]]
    table = summarize_evaluations(rows, {}, 12)
    assert len(table.rows) == 12
    names = {row.evaluation for row in rows}
    assert {name for name in names for row in table.rows if row[1].startswith(name)} == names
    assert {"better", "worse", "undecided"} <= {row[5] for row in table.rows}
    console = Console(file=io.StringIO(), width=width)
    console.print(draw_table(table))
    printed = console.file.getvalue()
    assert len(printed.splitlines()) < 50 and "12 of 1,305 results" in printed
    assert "The page has all results of 10 evaluations" in printed


def test_verdicts_of_evaluations_are_counted_by_arm():
    summary = json.loads((Path(__file__).parents[2] / "reports/wiki-33m/summary.json").read_text())
    rows = [EvaluationResult(**row) for row in summary["evaluations"]]
    table = count_verdicts(rows, {"attention=standard,normalization=ngpt": "nGPT"})
    named = dict(zip(table.header, table.rows[0], strict=True))
    assert named["Arm"] == "nGPT"
    assert named["length"] == "2 better of 6"
    assert named["needle"] == "none of 20"
    assert named["conditioning"] == "5 worse of 6"
    judged = [row for row in rows if row.arm.endswith("=ngpt") and row.evaluation == "conditioning" and row.verdict]
    assert Counter(row.verdict for row in judged if row.arm == "attention=standard,normalization=ngpt")["worse"] == 5
