"""A user's names cannot become markup, a formula, or a path."""

import csv
import io
import json
import re

import pytest

from ablate.analysis.checked_records import clean
from ablate.report import format_table, write_report
from ablate.report.markdown import escape
from ablate.report.offline_page import embed_json
from ablate.report.summary import write_csv
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study

NAMES = (
    "<b>bold</b>",
    "</script><script>alert(1)</script>",
    "a|b`c`*d*_e_[f](javascript:g)",
    '=HYPERLINK("http://x.invalid")',
    "[red]rich[/red]",
    r"\textbf{$x_1$} & 100 %",
    "{{ 7 * 7 }}{% raw %}",
    "zwei\nZeilen\x1b[31m",
    "<!-- --> ]]> \u2028 名前",
)


@pytest.fixture(scope="module", params=NAMES)
def hostile(request, tmp_path_factory):
    store = StudyFolder(tmp_path_factory.mktemp("hostile") / "study")
    arms = [
        SyntheticArm("baseline", {"kind": "plain"}),
        SyntheticArm(request.param, {"kind": request.param}, speedup=2),
    ]
    write_study(store, arms, seeds=(0,), question=request.param)
    return clean(request.param), write_report(store, store.path / "report")


def test_the_page_holds_the_name_only_escaped(hostile):
    name, report = hostile
    page = report.paths["html"].read_text()
    if re.search("[<>&]", name):
        assert name not in page
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    charts = {chart["name"]: chart for chart in json.loads(block)["charts"]}
    assert {row["arm"] for row in charts["differences"]["data"]["rows"]} == {name}
    assert page.count("<script") == 3
    assert "49" not in re.findall("<h1>(.*?)</h1>", page, re.DOTALL)[0]


def test_every_markdown_row_keeps_its_cells(hostile):
    _, report = hostile
    lines = report.paths["markdown"].read_text().splitlines()
    tables = [[len(re.findall(r"(?<!\\)\|", line))] for line in lines if line.startswith("|")]
    assert tables
    headers = [i for i, line in enumerate(lines) if line.startswith("| ---")]
    for start in headers:
        expected = lines[start].count("|")
        row = start - 1
        while row < len(lines) and lines[row].startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", lines[row])) == expected
            row += 1


def test_markdown_and_terminal_hold_no_markup(hostile):
    name, report = hostile
    markdown = report.paths["markdown"].read_text()
    assert "<b>" not in markdown and "<script" not in markdown and "[f](" not in markdown
    if name.startswith("[red]"):
        assert "[red]" in format_table(report)
    assert "\x1b" not in format_table(report)


def test_the_csv_reads_back_and_runs_no_formula(hostile):
    name, report = hostile
    rows = list(csv.DictReader(io.StringIO(report.paths["csv"].read_text(), newline="")))
    assert {row["arm"].lstrip("'") for row in rows} == {name}
    assert not any(row["arm"].startswith("=") for row in rows)


def test_numbers_keep_their_sign_in_csv():
    assert write_csv(["a", "b"], [[-1.5, "-x"]]) == "a,b\n-1.5,'-x\n"


def test_escape_by_hand():
    assert escape("a_b|c <d> & `e`") == r"a\_b\|c &lt;d&gt; &amp; \`e\`"
    assert escape("# not a heading\n- nor a list") == r"\# not a heading - nor a list"
    assert (escape("---"), escape("- x"), escape("-0.5")) == (r"\---", r"\- x", "-0.5")


def test_embedded_json_cannot_leave_its_element():
    text = embed_json({"x": "</script><!--&"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"x": "</script><!--&"}
