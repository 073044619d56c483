"""Importance of axes in an unbalanced grid."""

import math

import numpy as np
import pytest

from ablate.analysis import read_results
from ablate.analysis.importance import MIN_SETTINGS, find_importance, rate_axes
from ablate.report import write_report
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study


def draw(n, rng):
    rates, widths, kinds = 10 ** rng.uniform(-4, -2, n), rng.integers(1, 9, n), rng.choice(["a", "b"], n)
    columns = zip(rates.tolist(), widths.tolist(), kinds.tolist(), strict=True)
    return [{"rate": rate, "width": width, "kind": kind} for rate, width, kind in columns]


@pytest.mark.parametrize("axis", ["rate", "width", "kind"])
def test_the_axis_that_alone_decides_the_loss_comes_first(axis, capfd):
    losses = {
        "rate": lambda levels: abs(math.log10(levels["rate"]) + 3),
        "width": lambda levels: levels["width"],
        "kind": lambda levels: levels["kind"] == "a",
    }
    settings = draw(200, np.random.default_rng(0))
    noise = np.random.default_rng(1).normal(0, 0.01, 200)
    rated = rate_axes(settings, [losses[axis](levels) + e for levels, e in zip(settings, noise, strict=True)])
    assert rated[0].axis == axis and rated[0].importance > 0.6
    assert sum(line.importance for line in rated) == pytest.approx(1)
    assert {line.n for line in rated} == {200}
    assert capfd.readouterr() == ("", "")


def test_axes_may_exist_for_some_settings_only_and_runs_without_a_loss_are_left_out():
    settings = draw(30, np.random.default_rng(2))
    for n, levels in enumerate(settings):
        if levels["kind"] == "b":
            levels["maps"] = n % 3
    losses = [levels["rate"] for levels in settings[:-1]] + [math.nan]
    rated = rate_axes(settings, losses)
    assert rated[0].axis == "rate" and rated[0].n == 29


def test_few_settings_or_none_that_vary_have_no_importance():
    settings = draw(MIN_SETTINGS, np.random.default_rng(3))
    assert rate_axes(settings[1:], [1.0] * (MIN_SETTINGS - 1)) == ()
    assert rate_axes([{"a": 1}] * 20, list(range(20))) == ()


def test_a_grid_with_holes_has_importance_and_a_balanced_one_effects(tmp_path):
    def write(name, cells):
        store = StudyFolder(tmp_path / name)
        arms = [SyntheticArm(f"a={a},b={b}", {"a": a, "b": b}, "a=0,b=0", speedup=1 + a) for a, b in cells]
        write_study(store, arms, seeds=(0, 1), n_steps=60, noise=0.001)
        return store

    cells = [(a, b) for a in range(4) for b in range(3)]
    assert find_importance(read_results(write("balanced", cells))) == ()
    holes = write("holes", [cell for cell in cells if cell != (3, 2)])
    made = write_report(holes, tmp_path / "out")
    assert made.importance[0].axis == "a" and made.importance[0].n == 11
    page = made.paths["html"].read_text()
    assert "Importance of the axes for a low final loss" in page
    assert "not how much a level helps" in page
