"""How much each axis matters for being among the best, if the arms are not a balanced grid, as in a search.

This is PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023, arXiv 2304.10255) as Optuna computes it: the distance of the
levels of the best settings from the levels of all settings. It says which axes to look at, and not how much a level
helps. Effects say that, and they need a balanced grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ablate.analysis.results import Results
from ablate.analysis.summary import spread_of
from ablate.tracking.values import Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_SETTINGS = 10
"""With fewer settings no importance is given, because half of them would be among the best."""

N_BEST, SHARE_BEST = 5, 0.1
"""The best are a tenth of the settings, but at least five, as Optuna advises."""

_DECADE = 10.0  # positive levels that span it are spaced by their logarithm


@dataclass(frozen=True)
class Importance:
    """An axis's share in the difference between the best and the rest of `n` settings. All shares add up to 1."""

    axis: str
    importance: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_importance(results: Results) -> tuple[Importance, ...]:
    """Rate the axes of a study by the mean final values of its arms' metric.

    Empty for a balanced grid and for arms varied one at a time, which have effects or differences to show instead.
    """
    axes = results.record.axes
    n_cells = math.prod(max(len(levels), 1) for levels in axes.values())
    is_grid = len(results.arms) == n_cells and all(arm.axes.keys() == axes.keys() for arm in results.arms.values())
    if is_grid or results.record.design in ("one_at_a_time", "leave_one_out"):
        return ()
    arms = [arm for arm in results.arms if any(run.is_whole for run in results.runs_of(arm))]
    means = [spread_of(np.array([run.final_loss for run in results.runs_of(arm)])).mean for arm in arms]
    losses = [math.nan if mean is None else results.metric.orient(mean) for mean in means]
    return rate_axes([results.arms[arm].axes for arm in arms], losses)


def rate_axes(settings: Sequence[Mapping[str, Value]], losses: Sequence[float]) -> tuple[Importance, ...]:
    """Rank axes by their importance for a low loss. Each setting maps axes to levels and may lack some axes.

    Settings whose loss is not finite are left out. Empty for fewer than `MIN_SETTINGS`, or if nothing varies.
    """
    known = [(dict(levels), loss) for levels, loss in zip(settings, losses, strict=True) if math.isfinite(loss)]
    if len(known) < MIN_SETTINGS:
        return ()
    varied = {
        axis: _spread_levels([levels[axis] for levels, _ in known if axis in levels]) for axis in _list_axes(known)
    }
    varied = {axis: distribution for axis, distribution in varied.items() if not distribution.single()}
    if not varied:
        return ()
    from optuna import create_study, logging
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # it announces every study
    study = create_study()
    logging.set_verbosity(verbosity)
    for levels, loss in known:
        there = {axis: distribution for axis, distribution in varied.items() if axis in levels}
        study.add_trial(create_trial(params={axis: levels[axis] for axis in there}, distributions=there, value=loss))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(SHARE_BEST, N_BEST / len(known)))
    rated = get_param_importances(study, evaluator=evaluator)
    return tuple(Importance(axis, float(share), len(known)) for axis, share in rated.items())


def _list_axes(known: Sequence[tuple[Mapping[str, Value], float]]) -> list[str]:
    return list(dict.fromkeys(axis for levels, _ in known for axis in levels))


def _spread_levels(levels: Sequence[Value]) -> BaseDistribution:
    """Numbers are a range, logarithmic if they are positive and span a decade. Anything else is categorical."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels):
        return CategoricalDistribution(tuple(dict.fromkeys(levels)))
    low, high = float(min(levels)), float(max(levels))
    return FloatDistribution(low, high, log=low > 0 and high >= _DECADE * low)
