"""The plans that follow the trials: the confirmation of a search, and the matrix of a grid with `tune:`.

The confirmation trains best and default again with fresh seeds, as the study `<search>-confirm`, because the best of
many trials is optimistically biased.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ablate.plan import Arm, Plan, Run, build_plan
from ablate.search.arm_search import ARM, ArmSearch, best_of, distinct
from ablate.search.descriptions import describe_range, format_value
from ablate.search.problem import Problem
from ablate.search.space import ArmSpace, Params
from ablate.search.trials import Trials
from ablate.study import Overlay, Study
from ablate.study.yaml_source import Source

SETTINGS = "settings"  # the axis of the confirmation: best or default


def plan_confirmation(problem: Problem, trials: Trials) -> Plan | None:
    """The best of every arm and the defaults, with the steps and the seeds of `confirm`.

    None where the file wants no confirmation, where an arm has no completed trial, or where nothing can be compared.
    """
    if problem.confirm is None:
        return None
    seeds = problem.confirm.fresh_seeds(problem.seeds)
    arms = {arm.identity: arm for arm in reversed([*_confirmed_arms(problem, trials)])}  # a best default counts once
    if not seeds or len(arms) < 2 or any(best_of(search) is None for search in trials.searches):
        return None
    ordered = tuple(reversed(arms.values()))
    first = trials.searches[0].space
    axes = {axis: tuple(dict.fromkeys(arm.axes[axis] for arm in ordered)) for axis in (*first.fixed, SETTINGS)}
    study = problem.confirmed.replace(
        name=f"{problem.name}-confirm",
        seeds=seeds,
        question=f"Do the settings that {problem.name} found hold with fresh seeds?",
    )
    runs = tuple(Run.of(arm, seed) for seed in seeds for arm in ordered)
    return Plan(study, problem.corpus, axes, ordered[0].axes, ordered, runs, ())


def _confirmed_arms(problem: Problem, trials: Trials) -> Iterator[Arm]:
    """The first arm's default, which is the baseline, then every arm's best, and the other defaults."""
    spaces = [search.space for search in trials.searches]
    baseline = _name(spaces[0], "default")
    resolver = problem.confirming

    def make(space: ArmSpace, settings: str, params: Params) -> Arm:
        resolved = resolver.resolve(space.assign(params))
        axes = {axis: level.label for axis, level in space.fixed.items()} | {SETTINGS: settings}
        identity = resolved.identity(problem.corpus.hash)
        name = _name(space, settings)
        return Arm(name, axes, {}, baseline, resolved.setup, resolved.notices, identity)

    yield make(spaces[0], "default", {})
    for search in trials.searches:
        best = best_of(search)
        if best is not None:
            is_default = best.user_attrs[ARM] == trials.default_of(search).name
            yield make(search.space, "best", {} if is_default else trials.params_of(best.user_attrs[ARM]))
    for space in spaces[1:] if problem.confirm and problem.confirm.defaults == "all" else ():
        yield make(space, "default", {})


def _name(space: ArmSpace, settings: str) -> str:
    return f"{space.label},{SETTINGS}={settings}" if space.label else f"{SETTINGS}={settings}"


def plan_tuned(problem: Problem, study: Study, trials: Trials) -> Plan:
    """The grid's plan with each arm at its best settings, and a description of the search for the record."""
    best = {search.space.label: best_params(trials, search) for search in trials.searches}
    # An arm that another one stands for takes that arm's settings. Without them it would be an untuned arm of its own.
    best |= {other: best[name] for other, name in build_plan(study, problem.corpus).stands_for.items()}
    overlays = [Overlay(dict(params), Source("tune"), arm=label) for label, params in best.items() if params]
    plan = build_plan(study, problem.corpus, overlays)
    arms = {search.space.label: describe_arm(trials, search) for search in trials.searches}
    return replace(plan, tuning={"study": problem.name, "arms": arms})


def describe_arm(trials: Trials, search: ArmSearch) -> dict[str, Any]:
    """What the report shows of an arm's tuning: trials, steps per trial, the space in words, best values, edges.

    There are more trials than the file wants where `trials` was reduced later.
    """
    space, best = search.space, best_params(trials, search)
    return {
        "trials": sum(ARM in trial.user_attrs for trial in distinct(search.trials)),
        "steps": space.default.setup.n_steps,
        "space": {path: describe_range(parameter) for path, parameter in space.parameters.items()},
        "best": {path: format_value(value) for path, value in best.items()},
        "at_edge": [path for path, value in best.items() if space.parameters[path].is_edge(value)],
    }


def best_params(trials: Trials, search: ArmSearch) -> Mapping[str, Any]:
    """The settings of an arm's best trial; none where no trial was completed."""
    best = best_of(search)
    return trials.params_of(best.user_attrs[ARM]) if best is not None else {}
