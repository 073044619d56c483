"""Does a difference survive scale? Predictions for the next level of an axis, and scaling laws of single arms.

Arms that differ only in one axis of `compare_within`, such as the size or the horizon, form a family. Along the axis,

- if it is one of sizes or horizons, the difference of final losses to the baseline is fitted by a straight line in the
  logarithm of the level. Its 95 % prediction interval for the mean over as many seeds at the next level is that of
  least squares. It holds if the line goes on, which no study of smaller levels can know: it is an extrapolation. A
  study can hold out its largest level and compare the prediction with what came out.
- the final loss of an arm is fitted by E + A C^-a (Hoffmann et al. 2022, arXiv 2203.15556). C is the training FLOPs, or
  the level where they are unknown. The baseline's fit, inverted at an arm's final loss, gives the compute-equivalent
  speedup: the FLOPs with which the baseline would end there, over the arm's FLOPs. Intervals come from
  a bootstrap over seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.intervals import LEVEL
from ablate.analysis.results import Results
from ablate.tracking.arm_labels import largest_level, size_levels
from ablate.tracking.study_record import ArmRecord
from ablate.tracking.values import Value

FEWEST_LEVELS = 3
"""Two levels say nothing about whether the line is straight, or where a loss levels off."""

NOTHING: Floats = np.empty(0)
RESAMPLES = 1000
LARGEST_LOG = 300.0  # of the ratio between the ends of an interval and the estimate
EXPONENTS: Floats = np.geomspace(0.02, 3.0, 300)
"""The exponents that are tried. Published ones for language models lie between 0.03 and 0.5."""


@dataclass(frozen=True)
class Prediction:
    """The difference of final losses, arm minus baseline, predicted at `level` of the axis `along`.

    It is predicted from the smaller `levels`. `low` and `high` are the 95 % prediction interval of the mean over
    `n_seeds` seeds; `n_points` differences were fitted. If the level was held out and then trained, `actual` is the
    mean that was measured, and `is_inside` tells whether it lies in the interval.
    """

    family: Mapping[str, Value]
    along: str
    levels: tuple[float, ...]
    level: float
    predicted: float
    low: float
    high: float
    n_points: int
    n_seeds: int
    actual: float | None = None
    is_inside: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"family": dict(self.family)}


@dataclass(frozen=True)
class ScalingLaw:
    """The fit E + A C^-a of an arm's final losses along the axis `along`, each with its 95 % bootstrap interval.

    `floor` is E, `factor` A and `exponent` a; `compute` says what C is. `arms` are the members by level. `speedups` has
    the compute-equivalent speedup of each member over its baseline, with its interval; None where the baseline's fit
    never reaches the arm's loss, or for the baseline itself. `note` says why there is no fit.
    """

    family: Mapping[str, Value]
    along: str
    levels: tuple[float, ...]
    arms: tuple[str, ...]
    compute: str
    n_seeds: int
    floor: float | None = None
    factor: float | None = None
    exponent: float | None = None
    floor_interval: tuple[float, float] | None = None
    exponent_interval: tuple[float, float] | None = None
    speedups: tuple[tuple[float, float | None, float | None] | None, ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"family": dict(self.family)}


def find_predictions(results: Results) -> tuple[Prediction, ...]:
    """Predict the differences at the next level of each axis of `compare_within`, or at the one that is held out.

    A level that is held out needs no results, so its prediction can be published before it is trained. Then the
    interval is for as many seeds as the other levels have, and later for those that were trained.
    """
    held_out = results.record.predict.get("axis")
    found = []
    for along in results.record.compare_within:
        is_held_out, largest = along == held_out, largest_level(results.record.arms, along)
        for family, members in _list_families(results, along):
            if members[0][1].baseline == members[0][1].arm:
                continue
            if not (members[-1][1].axes[along] == largest if is_held_out else _grows(members)):
                continue
            points = [(level, _collect_gaps(results, arm.arm)) for level, arm in members]
            known = [(level, gaps) for level, gaps in (points[:-1] if is_held_out else points) if gaps.size]
            if len(known) < (FEWEST_LEVELS - 1 if is_held_out else FEWEST_LEVELS):
                continue
            level, actual = points[-1] if is_held_out else (_next_level(known), NOTHING)
            found += list(_predict(family, along, known, level, actual))
    return tuple(found)


def predict_line(x: Floats, y: Floats, at: float, n_new: int, level: float = LEVEL) -> tuple[Floats, Floats, Floats]:
    """Predict the mean of `n_new` values at `at` by a line through y [..., point]: estimate, low and high [...].

    The interval is that of ordinary least squares with independent normal noise of one variance. Needs
    three points or more.
    """
    centered = x - x.mean()
    slope, middle = y @ centered / (centered @ centered), y.mean(axis=-1)
    residual = y - middle[..., None] - slope[..., None] * centered
    df = x.size - 2
    variance = (residual**2).sum(axis=-1) / df * (1 / n_new + 1 / x.size + (at - x.mean()) ** 2 / (centered @ centered))
    estimate, half = middle + slope * (at - x.mean()), stdtrit(df, 0.5 + level / 2) * np.sqrt(variance)
    return estimate, estimate - half, estimate + half


def fit_power_law(compute_l: Floats, loss_bl: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit E + A C^-a to losses [batch, level] by least squares: E, A and a [batch], nan where losses do not fall.

    For each exponent of a fixed list, E and A follow from a line; the exponent with the smallest residual counts among
    those with A > 0 and E >= 0.
    """
    scale = compute_l / np.exp(np.log(compute_l).mean())
    powers_gl = scale ** -EXPONENTS[:, None]
    centered_gl = powers_gl - powers_gl.mean(axis=1, keepdims=True)
    mean_b = loss_bl.mean(axis=1)
    factor_bg = (loss_bl - mean_b[:, None]) @ centered_gl.T / (centered_gl**2).sum(axis=1)
    floor_bg = mean_b[:, None] - factor_bg * powers_gl.mean(axis=1)
    spread_b1 = ((loss_bl - mean_b[:, None]) ** 2).sum(axis=1, keepdims=True)
    residual_bg = spread_b1 - factor_bg**2 * (centered_gl**2).sum(axis=1)
    error_bg = np.where((factor_bg > 0) & (floor_bg >= 0), residual_bg, np.inf)
    best_b = error_bg.argmin(axis=1)
    rows = np.arange(len(best_b))
    is_found = np.isfinite(error_bg[rows, best_b])
    exponent_b = EXPONENTS[best_b]
    unscaled_b = factor_bg[rows, best_b] * (compute_l[0] / scale[0]) ** exponent_b
    return tuple(np.where(is_found, x, np.nan) for x in (floor_bg[rows, best_b], unscaled_b, exponent_b))  # type: ignore[return-value]


def find_scaling_laws(results: Results) -> tuple[ScalingLaw, ...]:
    """Fit each family of arms with at least three sizes or horizons along an axis, baselines first."""
    laws = []
    for along in results.record.compare_within:
        families = [
            (family, members)
            for family, members in _list_families(results, along)
            if len(members) >= FEWEST_LEVELS and _grows(members)
        ]
        families.sort(key=lambda found: found[1][0][1].baseline != found[1][0][1].arm)
        laws += [_fit(results, along, family, members) for family, members in families]
    return tuple(laws)


_Members = list[tuple[float, ArmRecord]]


def _list_families(results: Results, along: str) -> Iterator[tuple[dict[str, Value], _Members]]:
    """Yield the arms that differ only along an axis, by level. Levels without a number count by their parameters."""
    families: dict[tuple[tuple[str, Value], ...], list[ArmRecord]] = {}
    for arm in results.record.arms:
        if along in arm.axes:
            families.setdefault(tuple(pair for pair in arm.axes.items() if pair[0] != along), []).append(arm)
    for family, arms in families.items():
        sizes = size_levels(arms, along)
        if all(size and float(size) > 0 for size in sizes) and len(set(sizes)) == len(arms):
            yield dict(family), sorted(zip(map(float, sizes), arms, strict=True), key=lambda member: member[0])


def _grows(members: _Members) -> bool:
    """Tell whether the axis is one of sizes or horizons: parameters, tokens or steps grow from level to level."""
    columns = [
        [size or 0 for size in column]
        for column in zip(*((a.n_params, a.n_tokens, a.n_steps) for _, a in members), strict=True)
    ]
    return any(all(low < high for low, high in itertools.pairwise(column)) for column in columns)


def _collect_gaps(results: Results, name: str) -> Floats:
    base = {run.seed: run.final_loss for run in results.runs_of(results.baseline_of(name))}
    gaps = [run.final_loss - base[run.seed] for run in results.runs_of(name) if run.seed in base]
    return np.array([gap for gap in gaps if np.isfinite(gap)], np.float64)


def _next_level(known: Sequence[tuple[float, Floats]]) -> float:
    """The level as far above the last as that is above the one before it, on a logarithmic scale."""
    return known[-1][0] ** 2 / known[-2][0]


def _predict(
    family: Mapping[str, Value],
    along: str,
    fitted: Sequence[tuple[float, Floats]],
    level: float,
    actual: Floats,
) -> Iterator[Prediction]:
    x = np.concatenate([np.full(gaps.size, np.log(size)) for size, gaps in fitted])
    y = np.concatenate([gaps for _, gaps in fitted])
    if x.size < FEWEST_LEVELS:
        return  # a line through two points has no scatter
    n_seeds = actual.size or max(gaps.size for _, gaps in fitted)
    predicted, low, high = map(float, predict_line(x, y, float(np.log(level)), n_seeds))
    mean = float(actual.mean()) if actual.size else None
    inside = None if mean is None else low <= mean <= high
    levels = tuple(size for size, _ in fitted)
    yield Prediction(family, along, levels, level, predicted, low, high, int(x.size), n_seeds, mean, inside)


def _fit(results: Results, along: str, family: Mapping[str, Value], members: _Members) -> ScalingLaw:
    arms = [arm for _, arm in members]
    bases = [results.arms[arm.baseline] for arm in arms]
    everyone = {arm.arm: _final_losses(results, arm.arm) for arm in (*arms, *bases)}
    seeds = sorted(set.intersection(*(set(losses) for losses in everyone.values())))
    flops = {name: (results.arms[name].flops_per_token or 0) * (results.arms[name].n_tokens or 0) for name in everyone}
    has_flops = all(flops.values()) and all(
        len({flops[arm.arm] for arm in side}) == len(side) for side in (arms, bases)
    )
    costs, base_costs = (
        np.array([float(flops[arm.arm]) if has_flops else size for arm, (size, _) in zip(side, members, strict=True)])
        for side in (arms, bases)
    )
    levels, names = tuple(size for size, _ in members), tuple(arm.arm for arm in arms)
    law = ScalingLaw(family, along, levels, names, "training FLOPs" if has_flops else along, len(seeds))
    if not seeds:
        return replace(law, note="no seed was trained at every level")
    losses, base_losses = (
        np.array([[everyone[arm.arm][seed] for arm in side] for seed in seeds]) for side in (arms, bases)
    )
    rng = np.random.default_rng(0)
    draws = np.vstack([np.arange(len(seeds)), rng.integers(0, len(seeds), (RESAMPLES, len(seeds)))])
    mean_bl, base_mean_bl = losses[draws].mean(axis=1), base_losses[draws].mean(axis=1)
    floor, factor, exponent = fit_power_law(costs, mean_bl)
    if not np.isfinite(exponent[0]):
        return replace(law, note="the losses do not fall with the level as a power law does")
    is_baseline = [arm.arm for arm in arms] == [arm.arm for arm in bases]
    ratio_bl = np.full(mean_bl.shape, np.nan)
    if not is_baseline and has_flops:
        base_floor, base_factor, base_exponent = (x[:, None] for x in fit_power_law(base_costs, base_mean_bl))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            equal = ((mean_bl - base_floor) / base_factor) ** (-1 / base_exponent)
        ratio_bl = np.where(mean_bl > base_floor, equal / costs, np.inf)
    speedups = tuple(_read_speedup(column, len(seeds)) for column in ratio_bl.T)
    return replace(
        law,
        floor=float(floor[0]),
        factor=float(factor[0]),
        exponent=float(exponent[0]),
        floor_interval=bootstrap_interval(floor, len(seeds)),
        exponent_interval=bootstrap_interval(exponent, len(seeds)),
        speedups=() if is_baseline or not has_flops else speedups,
    )


def _final_losses(results: Results, name: str) -> dict[int, float]:
    return {run.seed: run.final_loss for run in results.runs_of(name) if np.isfinite(run.final_loss)}


def bootstrap_interval(values_b: Floats, n_seeds: int) -> tuple[float, float] | None:
    """The 95 % interval of a positive number from its bootstrap over seeds; the first value is the estimate.

    Percentiles would be far too narrow with few seeds. So the standard deviation of the logarithms is corrected for
    n - 1, and multiplied by the quantile of Student's t. None with one seed, or if a resample has no finite value.
    """
    if n_seeds < 2 or not (np.isfinite(values_b) & (values_b > 0)).all():
        return None
    error = np.log(values_b[1:]).std(ddof=1) * np.sqrt(n_seeds / (n_seeds - 1))
    factor = float(np.exp(np.minimum(stdtrit(n_seeds - 1, 0.5 + LEVEL / 2) * error, LARGEST_LOG)))
    return float(values_b[0] / factor), float(values_b[0] * factor)


def _read_speedup(ratio_b: Floats, n_seeds: int) -> tuple[float, float | None, float | None] | None:
    """The speedup with its interval; None if the baseline's fit does not reach the loss."""
    if not np.isfinite(ratio_b[0]):
        return None
    low, high = bootstrap_interval(ratio_b, n_seeds) or (None, None)
    return float(ratio_b[0]), low, high
