"""A metric of which higher is better gives the verdicts of its mirror image, digit for digit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from by_hand import STEPS, make_results, make_run

from ablate.analysis import Results
from ablate.analysis.differences import find_differences
from ablate.analysis.effects import find_effects
from ablate.analysis.fairness import check_fairness
from ablate.analysis.full_schedule import full_schedule_speed_ups
from ablate.analysis.importance import find_importance
from ablate.analysis.selection import measure_by, merge
from ablate.analysis.speedup import speed_ups
from ablate.analysis.summary import summarize_arms
from ablate.analysis.trend import find_trends
from ablate.errors import AblateError

EXACT = 2**-12  # losses are multiples of it below 1, so 1 - loss is exact
ROUNDING = 1e-10  # of 1 - x; values differ by about 1e-15
EDGES: tuple[float, ...] = (0.25, 0.5)  # absolute targets
HIGHER = {"val_acc": "higher"}
MIRRORS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"1 - loss": lambda x: 1 - x, "-loss": np.negative}


def draw(seed: int) -> dict[str, list[np.ndarray]]:
    """Random curves [evaluation] of nine arms with three seeds each: most noisy, one flat, two that get worse."""
    rng = np.random.default_rng(seed)
    curves = {}
    for arm in range(9):
        rate = 0.2 + 0.3 * rng.random()
        runs = [0.9 * (np.array(STEPS) / STEPS[0]) ** -rate + 0.03 * rng.standard_normal(len(STEPS)) for _ in range(3)]
        curves[f"arm-{arm}"] = [np.round(np.clip(run, 0.01, 0.99) / EXACT) * EXACT for run in runs]
    curves["arm-7"] = [np.full(len(STEPS), curves["arm-7"][0][0])] * 3
    for arm in ("arm-6", "arm-8"):  # a baseline, and an arm
        curves[arm] = [run[::-1] for run in curves[arm]]
    return curves


def build(curves: Mapping[str, list[np.ndarray]], metrics: Mapping[str, Any], turn: Callable[..., Any]) -> Results:
    names = [f"{kind}, size={size}" for size in (1, 2, 4) for kind in ("base", "a", "b")]
    levels = {name: {"kind": name.split(",")[0], "size": int(name[-1])} for name in names}
    runs = [
        make_run(name, seed, turn(losses), state="diverged" if (name[0], seed) == ("b", 2) else "finished",
                 metrics=metrics, learning_rate=[1.0, 1.0, 0.5, 0.1])
        for name, mine in zip(names, curves.values(), strict=True)
        for seed, losses in enumerate(mine)
    ]  # fmt: skip
    return make_results(
        *runs,
        baseline={name: f"base, size={name[-1]}" for name in names},
        axes=levels,
        within={name: {"size": levels[name]["size"]} for name in names},
        compare_within=("size",),
        study_axes={"kind": ("base", "a", "b"), "size": (1, 2, 4)},
    )


def swap(row: dict[str, Any], *values: str) -> dict[str, Any]:
    """The row with these values, and the interval of the first, negated."""
    turned = {name: None if row[name] is None else 0.0 - row[name] for name in values}
    return row | turned


@pytest.mark.parametrize("mirror", MIRRORS.values(), ids=MIRRORS)
@pytest.mark.parametrize("seed", range(4))
def test_a_mirrored_metric_gives_the_same_speedups_intervals_and_p_values(seed: int, mirror: Any) -> None:
    curves = draw(seed)
    lower, higher = build(curves, {"val_loss": "lower"}, np.array), build(curves, HIGHER, mirror)
    targets = ("50", "75", "90", "final")
    pairs = [
        *zip(speed_ups(lower, targets), speed_ups(higher, targets), strict=True),
        *zip(speed_ups(lower, EDGES), speed_ups(higher, tuple(map(float, mirror(np.array(EDGES))))), strict=True),
    ]
    assert {row.bound for row, _ in pairs} >= {None, "at_most"}
    assert any(row.p_value is not None and row.bound for row, _ in pairs)
    for mine, theirs in pairs:
        loss = mine.target_loss
        assert theirs.target_loss == (None if loss is None else pytest.approx(mirror(np.float64(loss))))
        for name in ("arm", "axis", "bound", "n_pairs", "n_reached"):
            assert getattr(theirs, name) == getattr(mine, name)
        for name in ("ratio", "low", "high", "p_value", "p_holm"):
            value = getattr(mine, name)
            is_exact = mirror is np.negative or value is None  # 1 - x rounds between two evaluations
            assert getattr(theirs, name) == (value if is_exact else pytest.approx(value, rel=ROUNDING, abs=0.0))
        assert theirs.method == mine.method.replace("the loss", "val_acc")
        assert theirs.note == mine.note.replace("below", "above")


@pytest.mark.parametrize("seed", range(4))
def test_a_mirrored_metric_gives_mirrored_differences_effects_and_trends(seed: int) -> None:
    curves = draw(seed)
    lower, higher = build(curves, {"val_loss": "lower"}, np.array), build(curves, HIGHER, np.negative)
    assert {row.verdict for row in find_differences(lower)} >= {"undecided"}
    for find in (find_differences, find_effects):
        for mine, theirs in zip(find(lower), find(higher), strict=True):
            row = asdict(mine)
            if mine.outcome == "final_loss":
                row = swap(row, "estimate", "low", "high", "low_simultaneous", "high_simultaneous")
                row["low"], row["high"] = row["high"], row["low"]
                ends = row["low_simultaneous"], row["high_simultaneous"]
                row["high_simultaneous"], row["low_simultaneous"] = ends
            assert asdict(theirs) == row
    for trend, other in zip(find_trends(lower), find_trends(higher), strict=True):
        row = swap(asdict(trend), "loss_change", "loss_low", "loss_high")
        row["loss_low"], row["loss_high"] = row["loss_high"], row["loss_low"]
        assert asdict(other) == row
    said = [line.flags for line in check_fairness(lower)]
    assert any("rises" in flag for flags in said for flag in flags)
    assert [line.flags for line in check_fairness(higher)] == [
        tuple(flag.replace("final loss", "final val_acc").replace("rises", "falls") for flag in flags) for flags in said
    ]


def test_horizons_and_importance_follow_the_direction() -> None:
    def build_horizons(metrics: Any, sign: float) -> Results:
        runs = [
            make_run(f"{kind}-{steps}", seed, [sign * loss for loss in losses], steps, metrics=metrics)
            for kind, gain in (("base", 0.0), ("arm", 0.25))
            for steps, losses in (((100,), (3.0 - gain,)), ((100, 200), (3.5, 2.5 - gain)), ((100, 400), (3.5, 2.0)))
            for seed in range(2)
        ]
        named = [f"{run.arm}-{run.n_steps}" for run in runs]
        runs = [replace(run, arm=name, run_id=f"{name}-{run.seed}") for run, name in zip(runs, named, strict=True)]
        axes = {name: {"kind": name.split("-")[0], "train.steps": int(name.rpartition("-")[2])} for name in named}
        baseline = {name: f"base{name[name.index('-') :]}" for name in named}
        levels = {"kind": ("base", "arm"), "train.steps": (100, 200, 400)}
        return make_results(*runs, baseline=baseline, axes=axes, study_axes=levels)

    lower = full_schedule_speed_ups(build_horizons({"val_loss": "lower"}, 1.0))
    higher = full_schedule_speed_ups(build_horizons(HIGHER, -1.0))
    assert any(row.ratio and row.ratio != 1 for row in lower)
    assert [replace(row, target_loss=-(row.target_loss or 0.0)) for row in higher] == list(lower)

    def build_search(metrics: Any, sign: float) -> Results:
        rng = np.random.default_rng(0)
        points = {f"t{k}": (float(rng.random()), float(rng.random())) for k in range(24)}
        runs = [make_run(name, 0, [9.0 * sign, sign * (x + 0.1 * y)], (1, 2), metrics=metrics)
                for name, (x, y) in points.items()]  # fmt: skip
        axes = {name: {"x": x, "y": y} for name, (x, y) in points.items()}
        return make_results(*runs, baseline="t0", axes=axes, study_axes={"x": (0, 1), "y": (0, 1), "z": tuple(points)})

    assert find_importance(build_search(HIGHER, -1.0)) == find_importance(build_search({"val_loss": "lower"}, 1.0))
    assert find_importance(build_search(HIGHER, 1.0)) != find_importance(build_search(HIGHER, -1.0))


TWO = {"val_acc": "higher", "val_loss": "lower"}


def make_two(**more: Any) -> Results:
    runs = [
        make_run(arm, seed, values, metrics=TWO, val_loss=losses)
        for arm, values, losses in (
            ("base", [0.1, 0.2, 0.3, 0.4], [4.0, 3.0, 2.0, 1.0]),
            ("arm", [0.2, 0.3, 0.4, 0.5], [5.0, 4.0, 3.0, 2.0]),
        )
        for seed in range(2)
    ]
    return make_results(*runs, **more)


def test_arms_are_compared_by_the_first_metric_and_by_another_one_on_demand() -> None:
    results = make_two()
    by_accuracy = speed_ups(results, ("final",))[0]
    assert (by_accuracy.target_loss, by_accuracy.ratio) == (pytest.approx(0.4), pytest.approx(2.0))
    by_loss = speed_ups(measure_by(results, "val_loss"), ("final",))[0]
    assert (by_loss.target_loss, by_loss.bound) == (1.0, "at_most")
    arm = summarize_arms(results)[1].to_dict()
    assert (arm["final_loss"]["mean"], arm["other_metrics"]["val_loss"]["mean"]) == (0.5, 2.0)
    assert not any(results.runs[0].diagnostics)


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(AblateError, match=r"no metric 'val_ac'; did you mean 'val_acc'\? \(legal: val_acc, val_loss\)"):
        measure_by(make_two(), "val_ac")


def test_studies_of_different_metrics_are_not_compared() -> None:
    other = make_results(make_run("base", 0, [4.0, 3.0, 2.0, 1.0]))
    other = replace(other, record=replace(other.record, study="other"))
    with pytest.raises(
        AblateError, match=r"different metrics: by-hand by val_acc \(higher is better\), other by val_l"
    ):
        merge([make_two(), other])


def test_an_arm_without_a_value_of_the_metric_is_named() -> None:
    runs = [make_run("base", 0, [0.1, 0.2, 0.3, 0.4], metrics=HIGHER), make_run("arm", 0, [np.nan] * 4, metrics=HIGHER)]
    row = speed_ups(make_results(*runs), ("final",))[0]
    assert (row.ratio, row.bound) == (None, "not_determined")
    assert "1 run of this arm left out (never evaluated)" in row.note
