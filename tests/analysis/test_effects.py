import itertools
import math

import numpy as np
import pytest
from by_hand import make_results, make_run
from scipy import stats

from ablate.analysis import effects
from ablate.analysis.differences import find_differences
from ablate.analysis.effects import find_effects, why_no_effects
from ablate.analysis.selection import select

COVERAGE = (0.93, 0.97)
ROUNDING = 1e-9  # least squares of a few dozen numbers


def factorial(outcome, seeds=3, a=("a0", "a1"), b=("b0", "b1"), design="full"):
    """Arms over a x b; `outcome(a, b, seed)` is the final loss."""
    runs, axes = [], {}
    for x, y in itertools.product(a, b):
        axes[f"{x}{y}"] = {"a": x, "b": y}
        runs += [make_run(f"{x}{y}", seed, [9.0, 9.0, 9.0, outcome(x, y, seed)]) for seed in range(seeds)]
    return make_results(*runs, baseline=f"{a[0]}{b[0]}", axes=axes, study_axes={"a": a, "b": b}, design=design)


def pick(effects, **levels):
    (effect,) = [effect for effect in effects if effect.levels == levels and effect.outcome == "final_loss"]
    return effect


def test_effects_of_a_two_by_two_by_hand():
    losses = {("a0", "b0"): 4.0, ("a1", "b0"): 3.0, ("a0", "b1"): 3.5, ("a1", "b1"): 3.1}
    effects = find_effects(factorial(lambda a, b, seed: losses[a, b] + [0.1, -0.2, 0.3][seed]))
    assert pick(effects, a="a1").estimate == pytest.approx(-0.7, abs=ROUNDING)  # mean of -1.0 and -0.4
    assert pick(effects, b="b1").estimate == pytest.approx(-0.2, abs=ROUNDING)  # mean of -0.5 and +0.1
    assert pick(effects, a="a1", b="b1").estimate == pytest.approx(0.6, abs=ROUNDING)  # -0.4 against -1.0
    # the seed is a block: an offset common to all arms of a seed adds no noise
    assert pick(effects, a="a1").high - pick(effects, a="a1").low == pytest.approx(0.0, abs=ROUNDING)


def test_the_interval_of_a_main_effect_is_the_one_of_a_blocked_layout():
    noise = np.random.default_rng(0).standard_normal((2, 2, 4))
    effects = find_effects(factorial(lambda a, b, seed: noise[int(a[1]), int(b[1]), seed], seeds=4))
    cells = noise.reshape(4, 4)
    residual = cells - cells.mean(1, keepdims=True) - cells.mean(0) + cells.mean()
    df = 9  # (4 - 1) cells x (4 - 1) blocks
    error = math.sqrt((residual**2).sum() / df * 2 / 8)  # difference of two means of 8
    effect = pick(effects, a="a1")
    assert effect.estimate == pytest.approx(noise[1].mean() - noise[0].mean(), abs=ROUNDING)
    assert effect.high - effect.estimate == pytest.approx(stats.t.ppf(0.975, df) * error)
    assert effect.p_value == pytest.approx(2 * stats.t.sf(abs(effect.estimate) / error, df))


def test_three_axes_of_one_seed_had_effects_with_intervals():
    losses = np.random.default_rng(0).normal(3.0, 0.1, (2, 2, 2, 2))
    cells = list(itertools.product(range(2), repeat=3))
    names = ["".join(map(str, cell)) for cell in cells]

    def study(n_seeds):
        axes = {name: dict(zip("abc", name, strict=True)) for name in names}
        runs = [
            make_run(n, s, [9.0, 9.0, 9.0, losses[(*c, s)]])
            for n, c in zip(names, cells, strict=True)
            for s in range(n_seeds)
        ]
        return make_results(*runs, baseline="000", axes=axes, study_axes=dict.fromkeys("abc", ("0", "1")))

    assert find_effects(study(1)) == ()
    assert find_effects(study(2))
    # --where keeps all seeds of a baseline
    assert find_effects(select(study(2), "seed == 1")) == ()


def test_three_levels_average_over_the_other_axis():
    add = {"a0": 0.0, "a1": 1.0, "a2": 5.0, "b0": 0.0, "b1": 0.25}
    effects = find_effects(factorial(lambda a, b, _: add[a] + add[b], a=("a0", "a1", "a2")))
    assert pick(effects, a="a2").estimate == pytest.approx(5.0, abs=ROUNDING)
    assert pick(effects, a="a2", b="b1").estimate == pytest.approx(0.0, abs=ROUNDING)
    assert len([e for e in effects if e.outcome == "final_loss"]) == 5


def test_a_missing_cell_leaves_out_only_what_it_makes_unknowable():
    full = factorial(lambda a, b, _: 1.0 if (a, b) == ("a1", "b1") else 0.0)
    runs = [run for run in full.runs if run.arm != "a1b1"]
    results = make_results(*runs, baseline="a0b0", axes={arm: full.arms[arm].axes for arm in ("a0b0", "a0b1", "a1b0")})
    assert find_effects(results) == ()
    three = factorial(lambda a, *_: 0.5 * (a == "a1"), a=("a0", "a1", "a2"))
    runs = [run for run in three.runs if run.arm != "a2b1"]
    results = make_results(*runs, baseline="a0b0", axes={arm.arm: arm.axes for arm in three.record.arms})
    levels = [effect.levels for effect in find_effects(results) if effect.outcome == "final_loss"]
    assert levels == [{"a": "a1"}, {"a": "a1", "b": "b1"}]


def test_effects_on_time_only_where_nothing_is_censored():
    def results(by):
        runs, axes = [], {}
        for name, shift in (("base", 0.0), ("arm", by)):
            axes[name] = {"a": name}
            runs += [make_run(name, seed, [4 - shift, 3 - shift, 2 - shift, 1 - shift]) for seed in (0, 1)]
        return make_results(*runs, axes=axes)

    outcomes = {effect.outcome: effect for effect in find_effects(results(1.0))}
    assert outcomes["log_tokens"].estimate == pytest.approx(-math.log(2))
    assert {effect.outcome for effect in find_effects(results(-1.0))} == {"final_loss"}


def test_no_effects_without_a_factorial_or_without_freedom():
    assert find_effects(factorial(lambda *_: 0.0, design="one_at_a_time")) == ()
    assert find_effects(factorial(lambda *_: 0.0, seeds=1)) == ()


def test_effects_cover_the_truth():
    rng = np.random.default_rng(1)
    n_studies, hits = 600, 0
    for _ in range(n_studies):
        noise = rng.standard_normal((2, 2, 3)) + rng.standard_normal(3)
        effects = find_effects(factorial(lambda a, b, seed: noise[int(a[1]), int(b[1]), seed] + 2.0 * (a == "a1")))  # noqa: B023
        effect = pick(effects, a="a1")
        hits += effect.low <= 2.0 <= effect.high
    assert COVERAGE[0] <= hits / n_studies <= COVERAGE[1]


def test_differences_are_paired_by_seed():
    losses = {"base": (0.0, 1.0, 2.0), "arm": (0.5, 1.6, 2.7)}
    runs = [
        make_run(arm, seed, [9.0, 8.0, 7.0, loss]) for arm, ends in losses.items() for seed, loss in enumerate(ends)
    ]
    (effect,) = find_differences(make_results(*runs))
    assert (effect.levels, effect.baseline, effect.n) == ({"kind": "arm"}, "base", 3)
    assert effect.estimate == pytest.approx(0.6)
    assert effect.high - 0.6 == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert (effect.method, effect.verdict) == ("paired t", "worse")


def test_a_difference_of_one_seed_has_no_interval_and_one_of_none_is_no_difference():
    losses = [4.0, 3.0, 2.0, 1.0]
    runs = [make_run("base", 0, losses), make_run("arm", 0, losses), make_run("gone", 0, losses, state="failed")]
    results = make_results(*runs)
    (effect,) = find_differences(results)
    assert (effect.arm, effect.low, effect.p_value, effect.p_holm) == ("arm", None, None, None)


def test_a_factorial_that_is_too_large_for_its_effects_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    results = factorial(lambda a, _, seed: 0.1 * seed + (a == "a1"))
    assert why_no_effects(results) == ""
    monkeypatch.setattr(effects, "MOST_WORK", len(results.runs) * 8**2 - 1)
    assert find_effects(results) == ()
    assert "12 runs have 8 of them" in why_no_effects(results)
