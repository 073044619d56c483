"""Labels of numbers on a page, in a picture or in a summary are correct."""

import itertools
import json
import re
from importlib import resources

import jsonschema
import pytest

from ablate.analysis import read_results
from ablate.analysis.curves_parquet import read_archive
from ablate.report import ReportOptions, format_table, write_report
from ablate.report.markdown import escape
from ablate.report.notebook import Study
from ablate.report.ratio_charts import chart_ladder
from ablate.report.report import make_report
from ablate.report.sections import compose
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study

BASE = "attention=standard,norm=pre"
SCHEMA = json.loads(resources.files("ablate.report").joinpath("summary.schema.json").read_text())


def arm(attention, norm, **changes):
    return SyntheticArm(f"attention={attention},norm={norm}", {"attention": attention, "norm": norm}, BASE, **changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = StudyFolder(tmp_path_factory.mktemp("runs") / "labels")
    arms = [
        arm(a, n, speedup=s)
        for a, n, s in (
            ("standard", "pre", 1.0),
            ("standard", "ngpt", 2.0),
            ("diff", "pre", 1.5),
            ("diff", "ngpt", 3.0),
        )
    ]
    write_study(store, arms, noise=0.01)
    return store


def report(store, out):
    made = write_report(store, out)
    return made, json.loads(made.paths["summary"].read_text())


def study_within(store, levels, **speedups):
    """Arms `kind-...` with their baselines `plain-...` at every combination of levels of the `within` axes."""
    arms = []
    for cell in itertools.product(*levels.values()):
        within = dict(zip(levels, cell, strict=True))
        place = "-".join(map(str, cell))
        for kind, speedup in {"plain": 1.0, **speedups}.items():
            arms.append(SyntheticArm(f"{kind}-{place}", {"kind": kind, **within}, f"plain-{place}", within, speedup))
    write_study(store, arms, noise=0.001)


def test_only_the_first_axis_of_numbers_got_its_growth_figure(tmp_path):
    store, axes = StudyFolder(tmp_path / "s"), {"context_length": (256, 1024), "d_model": (64, 128)}
    study_within(store, axes, new=1.5)
    made, _ = report(store, tmp_path / "out")
    page, html = made.paths["markdown"].read_text(), made.paths["html"].read_text()
    for name, along in (("growth", "context_length"), ("growth-2", "d_model")):
        caption = f"Speedup to the baseline's final loss along {along}, with unadjusted 95 % intervals"
        assert f"![{escape(caption)}" in page and f"(figures/{name}.svg)" in page
        assert f'id="figure-{name}"' in html
        assert (tmp_path / "out" / "figures" / f"{name}.svg").stat().st_size
        assert {trend.along for trend in made.growth_figures[name]} == {along}
    assert f"From {along}=" in " ".join(made.answer)


def test_growth_named_classes_of_the_user_with_their_file(tmp_path):
    store, arms = StudyFolder(tmp_path / "s"), []
    for n, (kind, speedup) in itertools.product((256, 1024), {"Plain": 1.0, "New": 1.5, "Other": 1.2}.items()):
        within = {"context_length": n}
        axes = {"attention": f"my.py:{kind}", **within}
        arms.append(SyntheticArm(f"{kind}-{n}", axes, f"Plain-{n}", within, speedup))
    write_study(store, arms, noise=0.001)
    made = make_report(read_results(store), ReportOptions())
    assert "context_length=1024, the speedups in tokens are multiplied by these factors: New " in " ".join(made.answer)
    tables = {table.name: table for table in compose(made).tables}
    assert [row[0] for row in tables["trends"].rows] == ["New", "Other"]


def test_a_line_joined_the_bounds_of_losers_so_that_they_seemed_to_climb(tmp_path):
    slow = StudyFolder(tmp_path / "slow")
    write_study(slow, [arm("standard", "pre"), arm("diff_v1", "pre", speedup=0.8)], noise=0.01)
    made, _ = report(slow, tmp_path / "out")
    bounds = [row.bound for row in made.rows if row.axis == made.axis]
    assert bounds == [None, None, "at_most", "at_most"]
    chart = chart_ladder(made)
    rows = chart.data[made.axis]
    assert [row["bound"] for row in rows] == ["", "", "at_most", "at_most"]
    pieces = [row["piece"] for row in rows if not row["bound"]]
    assert len(set(pieces)) == 1 and not {row["piece"] for row in rows if row["bound"]} & set(pieces)
    arrows = [layer for layer in chart.spec["layer"] if "shape" in layer["encoding"]]
    assert [layer["mark"]["filled"] for layer in arrows] == [False]
    lines = [layer for layer in chart.spec["layer"] if layer["mark"]["type"] == "line"]
    assert [layer["transform"] for layer in lines] == [[{"filter": "datum.bound == ''"}]]


def test_the_axis_of_a_ladder_of_losses_said_share_of_the_budget(store):
    for targets, text in (
        (("50", "final"), "the baseline's loss at this share of its budget"),
        ((4.0, 3.5), "a validation loss (nats per token)"),
        (
            ("final", 3.5),
            "the baseline's loss at this share of its budget, or a validation loss (nats per token)",
        ),
    ):
        made = make_report(read_results(store), ReportOptions(targets=targets))
        assert chart_ladder(made).caption.endswith(f"A target is {text}")


def test_intervals_stood_next_to_p_values_of_another_kind(store, tmp_path):
    made, summary = report(store, tmp_path / "out")
    assert "(difference in final loss, nats, simultaneous 95 % intervals)" in summary["answer"][0]
    assert "(unadjusted 95 % intervals)" in summary["answer"][0]
    tables = {table.name: table for table in compose(made).tables}
    assert tables["speedup"].header[1:4] == ("Loss difference", "Verdict", "p")
    assert ", with simultaneous 95 % intervals, and speedup over " in tables["speedup"].caption
    assert tables["speedup"].caption.endswith("with unadjusted ones")
    for name in ("differences", "effects"):
        table = tables[name]
        interval, p_value = (table.header.index(key) for key in ("Simultaneous 95 % interval", "p"))
        for row in table.rows:
            low, high = (float(end) for end in row[interval][1:-1].split(", "))
            assert (low > 0 or high < 0) == (float(row[p_value].removeprefix("< ")) < 0.05)
    for path in made.paths.values():
        assert path.suffix == ".parquet" or "Holm" not in path.read_text()


def test_difference_and_verdict_come_first_in_every_format(store, tmp_path):
    made, _ = report(store, tmp_path / "out")
    tex = next(path for path in made.others if path.name == "speedup.tex")
    assert (
        "\n| Arm | Loss difference | Verdict | p | steps = tokens = FLOPs = seconds |"
        in made.paths["markdown"].read_text()
    )
    assert "\nArm & Loss difference & Verdict & p & steps = tokens = FLOPs = seconds &" in tex.read_text()
    for page in (made.paths["html"].read_text(), Study(read_results(store))._repr_html_()):
        assert re.search(r"Arm</th>\s*<th[^>]*>Loss difference</th>\s*<th[^>]*>Verdict</th>\s*<th[^>]*>p</th>", page)
    assert re.search(r"Arm +difference +Verdict +p +seconds", format_table(made, 200))


def test_sizes_that_are_not_known_were_shown_as_zero(tmp_path):
    store = StudyFolder(tmp_path / "foreign")
    write_study(store, [SyntheticArm("a", {"x": 1}, "a"), SyntheticArm("b", {"x": 2}, "a", speedup=2.0)])
    document = json.loads(store.record.read_text())
    document["arms"][0] |= {"n_params": None, "flops_per_token": None, "n_tokens": None}
    document["arms"][1] |= {"n_params": 0, "flops_per_token": 0, "n_tokens": 0}  # as in older records
    store.record.write_text(json.dumps(document))
    made, summary = report(store, tmp_path / "out")
    jsonschema.Draft202012Validator(SCHEMA).validate(summary)
    for line in summary["arms"]:
        unknown = ("n_params", "flops_per_token", "n_tokens", "tokens_per_s", "tflops_per_s")
        assert [line[key] for key in unknown] == [None] * 5
    assert [(line["params_ratio"], line["horizon_tokens"], line["flags"]) for line in summary["fairness"]] == [
        (None, None, []),
        (None, None, []),
    ]
    tables = {table.name: table for table in compose(made).tables}
    assert not {"Parameters", "FLOPs per token", "Tokens"} & set(tables["arms"].header)
    assert not {"Tokens per second", "TFLOP/s"} & set(tables["cost"].header)
    assert "parameters, FLOPs and tokens" in made.answer[-1] or "Nothing was flagged" not in made.answer[-1]
    again = read_archive(made.paths["curves"])
    assert [arm.n_params for arm in again.record.arms] == [None, None]


def test_one_summary_had_two_definitions_of_tokens_per_s(store, tmp_path):
    _, summary = report(store, tmp_path / "out")
    assert summary["schema_version"] == 2
    assert not any("tokens_per_s" in line for line in summary["fairness"])
    for line in summary["arms"]:
        assert line["tokens_per_s"] == pytest.approx(line["n_tokens"] / line["n_steps"] / line["step_s"]["mean"])
        assert line["tflops_per_s"] == pytest.approx(line["tokens_per_s"] * line["flops_per_token"] / 1e12)


def test_a_summary_of_the_first_version_still_keeps_to_the_schema(store, tmp_path):
    _, summary = report(store, tmp_path / "out")
    old = summary | {"schema_version": 1}
    old["arms"] = [line | {"mfu": None} for line in summary["arms"]]
    old["fairness"] = [line | {"tokens_per_s": 40960.0} for line in summary["fairness"]]
    jsonschema.Draft202012Validator(SCHEMA).validate(old)
