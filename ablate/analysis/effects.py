"""Effects of each axis of a factorial on the loss and on the cost to the target.

They come from least squares with the seed as a block. The main effect of a level is
its difference from the baseline's level, averaged over all levels of the other axes. The two-way interaction of two
levels is the difference of such differences.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ablate.analysis.comparison import compare, find_obstacle
from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import Family
from ablate.analysis.intervals import adjust_p_values
from ablate.analysis.results import Results
from ablate.tracking.values import Value

MOST_WORK = 2e10
"""Runs times the square of the columns of the design, to which the time of a fit is proportional: half a minute."""

NO_SIZE = 1e-11
"""An eigenvalue below this share of the largest one is zero. Rounding leaves 1e-15, a design of 20,000 runs 1e-5."""

ESTIMABLE = 1e-8
"""A contrast is estimable if the design misses less than this of it. Rounding leaves about 1e-12."""

FINAL = "final_loss"  # the name of this outcome in `summary.json`, for any metric


@dataclass(frozen=True)
class Effect:
    """A difference with its 95 % intervals (null below two seeds) and p-values.

    `low`, `high` and `p_value` are of the effect by itself. The simultaneous ones hold for the whole family of effects
    and agree with each other; pages show them. `p_holm` is adjusted by Holm's method.

    `outcome` is `final_loss`, the final value of the study's metric (nats per token for a loss), or `log_` and an axis
    of cost, which is the natural logarithm of the cost to the baseline's final loss. `levels` has one axis for a main
    effect and two for an interaction. For a difference of two arms, it has the levels in which `arm` differs from
    `baseline`.
    """

    outcome: str
    levels: Mapping[str, Value]
    estimate: float
    n: int
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    arm: str = ""
    baseline: str = ""
    low_simultaneous: float | None = None
    high_simultaneous: float | None = None
    p_simultaneous: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"levels": dict(self.levels)}


SomeEffect = TypeVar("SomeEffect", bound=Effect)


def find_effects(results: Results, axis: str = "tokens") -> tuple[Effect, ...]:
    """Compute main effects and two-way interactions of a full factorial on the final loss and the log cost.

    The log cost to the target is left out unless every run reached the baseline's final loss. Axes that do not exist
    for every arm are averaged over. Empty if the design is not a factorial, if the runs leave no degree of freedom, or
    if there is only one seed: its residuals are interactions of three axes, which say nothing about another seed.
    """
    factors = _list_factors(results)
    if results.record.design != "full" or not factors or why_no_effects(results):
        return ()
    outcomes = {FINAL: _collect_losses(results, factors), f"log_{axis}": _collect_log_costs(results, factors, axis)}
    return tuple(effect for outcome, cells in outcomes.items() for effect in _fit(outcome, cells, factors))


def why_no_effects(results: Results) -> str:
    """Say why a factorial is too large for its effects; empty if it is not."""
    levels = [len(levels) for levels in _list_factors(results).values()] if results.record.design == "full" else []
    n_columns = sum(levels) + sum(a * b for a, b in itertools.combinations(levels, 2))
    if len(results.runs) * n_columns**2 <= MOST_WORK:
        return ""
    return f"main effects and interactions are left out, because {len(results.runs):,} runs have {n_columns:,} of them"


_Cell = tuple[tuple[Value, ...], int, float]  # levels of the factors, seed, outcome
_Factors = Mapping[str, tuple[Value, ...]]


def _list_factors(results: Results) -> _Factors:
    """List the axes that every arm has, each with its levels, the baseline's first."""
    factors: dict[str, tuple[Value, ...]] = {}
    for axis in results.arms[next(iter(results.arms))].axes:
        levels = [arm.axes.get(axis) for arm in results.arms.values()]
        if None in levels or len(set(levels)) < 2:
            continue
        base = [results.arms[arm.baseline].axes.get(axis) for arm in results.arms.values()]
        first = max(dict.fromkeys(base), key=base.count)
        factors[axis] = tuple(dict.fromkeys((first, *levels)))
    return factors


def _collect_losses(results: Results, factors: _Factors) -> list[_Cell]:
    whole = [run for run in results.runs if np.isfinite(run.final_loss)]
    return [(_levels(results, run.arm, factors), run.seed, run.final_loss) for run in whole]


def _collect_log_costs(results: Results, factors: _Factors, axis: str) -> list[_Cell]:
    cells: dict[tuple[str, int], _Cell] = {}
    for arm in results.compared_arms:
        comparison = compare(results, arm, "final")
        is_reached = comparison.arm and all(reach.side == "reached" for reach in comparison.arm)
        if not is_reached or find_obstacle(comparison, axis):
            return []
        for reach in (*comparison.arm, *comparison.baseline):
            run, cost = reach.run, reach.cost(axis)
            if cost > 0:
                cells[run.arm, run.seed] = (_levels(results, run.arm, factors), run.seed, float(np.log(cost)))
    return list(cells.values())


def _levels(results: Results, arm: str, factors: _Factors) -> tuple[Value, ...]:
    return tuple(results.arms[arm].axes[axis] for axis in factors)


def _fit(outcome: str, cells: Sequence[_Cell], factors: _Factors) -> tuple[Effect, ...]:
    n_runs = Counter(seed for _, seed, _ in cells)
    cells = [cell for cell in cells if n_runs[cell[1]] > 1]  # the only run of a seed just determines its block
    if not cells:
        return ()
    seeds = list(dict.fromkeys(seed for _, seed, _ in cells))
    blocks = np.eye(len(seeds))
    design = np.stack([_code(blocks[seeds.index(seed)], _indicate(levels, factors)) for levels, seed, _ in cells])
    values = np.array([value for _, _, value in cells], np.float64)
    products = design.T @ design
    inverse, rank = _invert(products)
    df = len(values) - rank
    if df < 1 or len(seeds) < 2:
        return ()
    coefficients = inverse @ (design.T @ values)
    projection = inverse @ products
    residual = values - design @ coefficients
    covariance = float(residual @ residual) / df * inverse
    found: dict[int, list[tuple[Effect, float]]] = {}
    for levels, contrast in _list_contrasts(factors, blocks[0]):
        if np.abs(contrast - contrast @ projection).max() > ESTIMABLE:
            continue  # some cells are missing
        error = float(np.sqrt(np.maximum(contrast @ covariance @ contrast, 0.0)))
        effect = Effect(outcome, levels, float(contrast @ coefficients), len(values))
        found.setdefault(len(levels), []).append((effect, error))
    tested: list[Effect] = []
    for order in found.values():
        members, errors = zip(*order, strict=True)
        means = np.array([effect.estimate for effect in members])
        tested += fill_in(members, Family(means, np.array(errors), np.full(means.size, float(df))))
    return adjust_p_values(tested, lambda effect: len(effect.levels))


def _invert(products: Floats) -> tuple[Floats, int]:
    """The pseudo-inverse and the rank of a design's products of columns, which are counts of runs."""
    sizes, vectors = np.linalg.eigh(products)
    is_large = sizes > NO_SIZE * sizes.max()
    kept = vectors[:, is_large]
    return kept / sizes[is_large] @ kept.T, int(np.count_nonzero(is_large))


def fill_in(effects: Sequence[SomeEffect], family: Family) -> list[SomeEffect]:
    """Fill in the intervals and p-values of the effects of one family."""
    plain, together = family.plain(), family.simultaneous()
    return [
        replace(
            effect,
            low=float(plain.low[i]),
            high=float(plain.high[i]),
            p_value=float(plain.p_value[i]),
            low_simultaneous=float(together.low[i]),
            high_simultaneous=float(together.high[i]),
            p_simultaneous=float(together.p_value[i]),
        )
        for i, effect in enumerate(effects)
    ]


def _indicate(levels: Sequence[Value], factors: _Factors) -> list[Floats]:
    """Return the weights of the levels of each axis: 1 for the given level, 0 for the others."""
    return [
        np.array([level == k for k in known], np.float64) for level, known in zip(levels, factors.values(), strict=True)
    ]


def _code(block: Floats, weights: Sequence[Floats]) -> Floats:
    """Build a row of the design: the seed's block, the weights of all levels, and their two-way products.

    Weights that average over levels give the average row of the full grid, because the products factorize.
    """
    return np.concatenate([block, *weights, *(np.outer(a, b).ravel() for a, b in itertools.combinations(weights, 2))])


def _list_contrasts(factors: _Factors, block: Floats) -> list[tuple[dict[str, Value], Floats]]:
    """Contrast each level and pair of levels with the baseline's, averaged over all levels of the other axes."""
    even = {axis: np.full(len(levels), 1 / len(levels)) for axis, levels in factors.items()}
    single = {axis: dict(zip(levels, np.eye(len(levels)), strict=True)) for axis, levels in factors.items()}
    contrasts = []
    for axes in (*((axis,) for axis in factors), *itertools.combinations(factors, 2)):
        for chosen in itertools.product(*(factors[axis][1:] for axis in axes)):
            levels = dict(zip(axes, chosen, strict=True))
            corners = itertools.product(*(((level, 1), (factors[axis][0], -1)) for axis, level in levels.items()))
            rows = []
            for corner in corners:
                fixed = {axis: single[axis][level] for axis, (level, _) in zip(axes, corner, strict=True)}
                rows.append(math.prod(sign for _, sign in corner) * _code(block, [*(even | fixed).values()]))
            contrasts.append((levels, np.sum(rows, axis=0)))
    return contrasts
