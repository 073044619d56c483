"""What the charts draw: encodings of factors, panels, labels, differences from the baseline, and filled blanks."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert
from gallery import GALLERY
from hypothesis import given
from hypothesis import strategies as st

from ablate.report import Report, ReportOptions
from ablate.report.chart import Chart, draw_file, spread
from ablate.report.curve_charts import chart_minus_baseline
from ablate.report.end_labels import spread_out
from ablate.report.palette import LIGHT, MAX_COLORS
from ablate.report.report import make_report
from ablate.report.sections import compose
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that gives the report of a study of the gallery."""
    folder, made = tmp_path_factory.mktemp("gallery"), {}

    def make(name: str) -> Report:
        if name not in made:
            GALLERY[name](StudyFolder(folder / name))
            made[name] = make_report(read_study(StudyFolder(folder / name)), ReportOptions())
        return made[name]

    return make


def read_rows(chart: Chart, key: str | None = None) -> list[dict[str, Any]]:
    fill = chart.fills[key or next(iter(chart.fills))]
    return [row for name in fill["data"] for row in spread(chart.data[name])]


def test_two_factors_are_color_and_dash_and_the_baseline_is_gray(reports: Any) -> None:
    report = reports("factorial")
    looks = report.looks
    by_attention = {arm.axes["attention"]: looks[arm.arm].color for arm in report.record.arms}
    by_norm = {arm.axes["normalization"]: looks[arm.arm].dash for arm in report.record.arms}
    assert all(looks[arm.arm].color == by_attention[arm.axes["attention"]] for arm in report.record.arms)
    assert all(looks[arm.arm].dash == by_norm[arm.axes["normalization"]] for arm in report.record.arms)
    assert len(set(by_attention.values())) == 7 and len(set(by_norm.values())) == 2
    assert by_attention["standard"] == LIGHT.lines[0] and by_norm["prenorm"] == ()


def test_contexts_are_panels_and_names_do_not_repeat_them(reports: Any) -> None:
    report = reports("contexts")
    panels = [f"context_length={length}" for length in (256, 1024, 4096)]
    assert list(dict.fromkeys(look.panel for look in report.looks.values())) == panels
    assert {look.short for look in report.looks.values()} == set("abcdef")
    charts = compose(report).charts
    assert all("facet" in charts[name].spec for name in ("curves", "minus-baseline", "ladder", "diagnostics"))
    assert [row["heading"] for row in read_rows(charts["differences"]) if "heading" in row] == panels


def test_beyond_eight_arms_the_best_have_colors_of_their_own(tmp_path: Path) -> None:
    arms = [SyntheticArm("baseline", {"kind": 0})]
    arms += [SyntheticArm(f"kind={i}", {"kind": i}, speedup=1 + i / 10) for i in range(1, 20)]
    write_study(StudyFolder(tmp_path / "many"), arms, n_steps=100, noise=0.001)
    report = make_report(read_study(StudyFolder(tmp_path / "many")), ReportOptions())
    colors = {arm: look.color for arm, look in report.looks.items()}
    assert len(set(colors.values())) == MAX_COLORS + 1
    own = {arm for arm, color in colors.items() if color != LIGHT.other}
    assert own == {"baseline", *(f"kind={i}" for i in range(13, 20))}
    labels = [row["text"] for row in read_rows(compose(report).charts["curves"]) if row.get("kind") == "label"]
    assert len(labels) == MAX_COLORS


def test_a_difference_is_from_the_baseline_with_the_same_seed_at_the_same_cost(tmp_path: Path) -> None:
    store = StudyFolder(tmp_path / "s")
    arms = [SyntheticArm("baseline", {"kind": "a"}), SyntheticArm("b", {"kind": "b"}, speedup=2.0, step_s=0.2)]
    write_study(store, arms, noise=0.05)
    report = make_report(read_study(store), ReportOptions())
    chart = chart_minus_baseline(report)
    mine, theirs = ({run.seed: run for run in report.results.runs_of(arm)} for arm in ("b", "baseline"))
    for axis in ("tokens", "seconds"):
        drawn = [row for row in read_rows(chart, axis) if row["kind"] == "seed"]
        assert {row["seed"] for row in drawn} == {"seed 0", "seed 1", "seed 2"}
        for row in drawn:
            run, base = (side[int(row["seed"].removeprefix("seed "))] for side in (mine, theirs))
            loss, other = (
                np.interp(row[axis], side.cost_of_evaluations(axis), side.evaluation_loss) for side in (run, base)
            )
            assert row["y"] == pytest.approx(loss - other, abs=1e-4)
    longest = max(row["seconds"] for row in read_rows(chart, "seconds"))
    assert longest == pytest.approx(40)  # the baseline trained no longer, so nothing is drawn beyond


def test_a_diverged_arm_is_drawn_and_flattens_nothing(reports: Any) -> None:
    chart = compose(reports("diverged")).charts["curves"]
    rows = read_rows(chart)
    parts = {row["seed"] for row in rows if row["kind"] == "part"}
    assert parts == {f"seed {seed}: diverged" for seed in range(3)}
    assert max(row["y"] for row in rows) < 20
    assert ", cut at " in next(iter(chart.fills.values()))["y_title"]
    assert "1 of 2 arms is better than the baseline and 1 diverged" in reports("diverged").verdict[0]


@pytest.mark.parametrize("name", GALLERY)
def test_every_option_fills_every_blank(reports: Any, name: str) -> None:
    for chart in compose(reports(name)).charts.values():
        assert len(chart.fills) == np.prod([len(choice.options) for choice in chart.choices], dtype=int)
        for key in chart.fills:
            text = json.dumps({k: v for k, v in chart.draw(key).items() if k != "data"})
            assert '"$' not in text
        vl_convert.vegalite_to_vega(chart.draw())  # raises if it is not valid


def test_the_line_of_no_difference_is_drawn(reports: Any) -> None:
    charts = compose(reports("diverged")).charts
    for name in ("differences", "minus-baseline", "speedup", "ladder"):
        svg = draw_file(charts[name], "svg").decode()
        assert re.search(r"<line [^>]*stroke-dasharray=.4,3", svg), name


def test_the_same_chart_gives_the_same_bytes(reports: Any) -> None:
    chart = compose(reports("diverged")).charts["curves"]
    for ending, start in (("svg", b"<svg"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
        content = draw_file(chart, ending)
        assert content.startswith(start)
        assert ending == "pdf" or content == draw_file(chart, ending)  # objects of a PDF have no order


@given(st.lists(st.floats(0, 1), max_size=20), st.floats(0.001, 0.04))
def test_labels_keep_their_order_and_their_distance(places: list[float], gap: float) -> None:
    found = spread_out(sorted(places), gap, (0.0, 1.0))
    assert all(later - earlier >= gap - 1e-9 for earlier, later in pairwise(found))
    assert not found or found[-1] <= 1 + 1e-9
    apart = [place for i, place in enumerate(sorted(places)) if i == 0 or place - sorted(places)[i - 1] >= gap]
    if len(apart) == len(places):
        assert found == pytest.approx(sorted(places))


def test_a_baseline_without_a_line_is_not_in_the_legend(reports: Any) -> None:
    report = reports("factorial")
    charts, labels = compose(report).charts, report.labels
    baseline = labels[next(arm.arm for arm in report.record.arms if arm.arm == arm.baseline)]
    listed = {name: {line.text for line in charts[name].legend} for name in ("curves", "ladder")}
    assert listed["curves"] - listed["ladder"] == {baseline}
    assert len(listed["ladder"]) == len(report.results.compared_arms)


def test_the_legend_in_a_picture_names_only_what_has_a_line(tmp_path: Path) -> None:
    arms = [SyntheticArm(name, {"kind": name}, "a", speedup=speedup) for name, speedup in (("a", 1.0), ("b", 2.0))]
    write_study(StudyFolder(tmp_path / "s"), arms)
    report = make_report(read_study(StudyFolder(tmp_path / "s")), ReportOptions())
    svg = draw_file(compose(report).charts["ladder"], "svg").decode()
    assert ">b</text>" in svg and ">a</text>" not in svg
