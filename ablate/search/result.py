"""The results of a search as plain data: `summary.json`, from which the page and the Markdown are made.

The best value of a search is optimistically biased because it is the lowest of many noisy ones. The confirmation is
not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from ablate.analysis.intervals import paired_t
from ablate.analysis.results import Results, read_results
from ablate.errors import RecordError
from ablate.plan.axes import display
from ablate.plan.inputs import name_data
from ablate.plan.tasks import metrics_of
from ablate.search.arm_search import ARM, IMPOSSIBLE, ArmSearch, best_of, distinct
from ablate.search.descriptions import describe_metrics, describe_scope
from ablate.search.follow_up import SETTINGS, best_params, plan_confirmation
from ablate.search.importance import rate_settings
from ablate.search.problem import Problem
from ablate.search.trials import Trials
from ablate.study.tuning import Tune
from ablate.tracking.folders import StudyFolder

SCHEMA = 1
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "diverged or pruned",
    TrialState.FAIL: "impossible",
    TrialState.RUNNING: "open",
}

Summary = dict[str, Any]


def summarize(problem: Problem, trials: Trials, store: StudyFolder, version: str) -> Summary:
    """All numbers of a search. Open trials are counted, but no figure includes them."""
    return {
        "schema": SCHEMA,
        "version": version,
        "search": problem.name,
        "question": problem.study.question,
        "scope": describe_scope(problem),
        "is_tuning": isinstance(problem.tuning, Tune),
        "objectives": [objective.model_dump() | {"text": objective.text} for objective in problem.objectives],
        **describe_metrics(metrics_of(problem.study)),
        "trials": problem.tuning.trials,
        "seeds": list(problem.seeds),
        **problem.describe_finals(),
        "sampler": problem.tuning.sampler.model_dump(),
        "pruner": problem.tuning.pruner.model_dump(),
        "data": name_data(problem.study, problem.arms[0].default.setup.data_hash(problem.corpus.hash)),
        "arms": [_summarize_arm(problem, trials, search) for search in trials.searches],
        "confirmation": _summarize_confirmation(problem, trials, store),
    }


def _summarize_arm(problem: Problem, trials: Trials, search: ArmSearch) -> Summary:
    space = search.space
    rows = [_summarize_trial(trials, search, trial) for trial in distinct(search.trials) if trial.state in STATES]
    complete = [row for row in rows if row["state"] == "complete"]
    best, sign = best_of(search), 1.0 if problem.objectives[0].direction == "minimize" else -1.0
    importance = rate_settings([row["params"] for row in complete], [sign * row["values"][0] for row in complete])
    return {
        "arm": " / ".join(display(level.label) for level in space.fixed.values()) or problem.name,
        "size": space.default.setup.describe_size(),
        "space": {path: p.model_dump(exclude_defaults=True) for path, p in space.parameters.items()},
        "left_out": list(space.missing),
        "defaults": space.defaults,
        "n_trials": trials.n_wanted(search),
        "n_configurations": sum(bool(row["arm"]) and row["state"] != "open" for row in rows),
        "history": rows,
        "best": None if best is None else _number_of(rows, best.user_attrs[ARM]),
        "default": _number_of(rows, trials.default_of(search).name),
        "at_edge": [
            path for path, value in best_params(trials, search).items() if space.parameters[path].is_edge(value)
        ],
        "importance": [asdict(row) for row in importance],
    }


def _summarize_trial(trials: Trials, search: ArmSearch, trial: FrozenTrial) -> Summary:
    arm = trial.user_attrs.get(ARM, "")
    final = search.finals.get(arm)
    return {
        "number": trial.number,
        "arm": arm,
        "state": STATES[trial.state],
        "values": list(trial.values) if trial.state == TrialState.COMPLETE else None,
        **({} if final is None else {"final": final}),
        "params": dict(trials.params_of(arm)) if arm else dict(trial.params),
        "same": [dict(params) for params in trials.shared_by(search, arm)],
        "reason": trial.user_attrs.get(IMPOSSIBLE, ""),
    }


def _number_of(rows: Sequence[Summary], arm: str) -> int | None:
    return next((row["number"] for row in rows if row["arm"] == arm and row["values"]), None)


def _summarize_confirmation(problem: Problem, trials: Trials, store: StudyFolder) -> Summary | None:
    """Compare best and default of each arm, and the first arm's best with the others'. None before it was trained."""
    plan = plan_confirmation(problem, trials)
    if plan is None:
        return None
    place = StudyFolder(store.path.parent / plan.study.name)
    try:
        results = read_results(place)
    except RecordError:
        return None
    run_ids = {run.run_id for run in plan.runs}  # an earlier best may have the same name
    losses = {arm.name: _final_losses(results, arm.name, run_ids) for arm in plan.arms if arm.name in results.arms}
    axes = {arm.name: dict(arm.axes) for arm in plan.arms}
    pairs = [(one, other) for one, other in _pairs(axes) if losses.get(one) and losses.get(other)]
    return {
        "study": plan.study.name,
        "seeds": list(plan.study.seeds),
        "horizon": plan.arms[0].setup.describe_horizon(plan.study),
        "losses": [
            {"arm": _label(axes[name]), "by_seed": {str(seed): loss for seed, loss in by_seed.items()}}
            for name, by_seed in losses.items()
        ],
        "differences": [
            {"arm": _label(axes[one]), "against": _label(axes[other])} | _compare(losses[one], losses[other])
            for one, other in pairs
        ],
    }


def _final_losses(results: Results, arm: str, run_ids: Set[str]) -> Mapping[int, float]:
    runs = [run for run in results.runs_of(arm) if run.run_id in run_ids]
    return {run.seed: run.final_loss for run in runs if np.isfinite(run.final_loss)}


def _pairs(axes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(arm, arm that it is compared with)."""
    best = [name for name, levels in axes.items() if levels[SETTINGS] == "best"]
    for name in best:
        own = {**axes[name], SETTINGS: "default"}
        yield from ((name, other) for other, levels in axes.items() if levels == own)
    first = best[:1] or [next(iter(axes))]
    for name in best:
        if name not in first and {**axes[name], SETTINGS: ""} != {**axes[first[0]], SETTINGS: ""}:
            yield first[0], name


def _label(levels: Mapping[str, Any]) -> str:
    """`ngpt / best`."""
    return " / ".join(map(display, levels.values()))


def _compare(losses: Mapping[int, float], others: Mapping[int, float]) -> Summary:
    """The mean difference of final values, such as validation losses (nats), paired by seed, with its interval."""
    difference = np.array([losses[seed] - others[seed] for seed in losses if seed in others], np.float64)
    row: Summary = {"n": difference.size, "estimate": None, "low": None, "high": None, "p_value": None}
    if difference.size:
        row["estimate"] = float(difference.mean())
    if difference.size > 1:
        found = paired_t(difference)
        row |= {"low": float(found.low), "high": float(found.high), "p_value": float(found.p_value)}
    return row
