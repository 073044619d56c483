"""A grid's `tune:`: every arm gets the same trials over the same space, then the matrix trains at each arm's best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan import Plan, build_plan
from ablate.plan.expand import expand
from ablate.plan.plan import read_names
from ablate.search.arm_search import ARM, best_of, distinct
from ablate.search.descriptions import describe_range, format_value
from ablate.search.problem import Problem, check_horizon, read_arms, vary
from ablate.search.schema import Objective
from ablate.search.space import ArmSpace
from ablate.search.trials import Trials
from ablate.study import Overlay, Study
from ablate.study.predicates import Predicate
from ablate.study.tuning import Tune
from ablate.study.yaml_source import KeyPath, Source

TUNED = ("train.learning_rate", "train.muon_learning_rate")


def pose_tuning(study: Study, corpus: CorpusInfo) -> Problem:
    """The search that `tune:` declares, `<study>-tune`, with an arm for each of the grid's.

    Its seeds are none of the matrix's, or the trials would have seen what they are to predict. Raises `GridError` where
    the space cannot be searched for some arm, leaves the learning rate out, or has what a rule or the like reads.
    """
    tune = _tune_of(study)
    names = read_names()
    expansion = expand(study, names)
    whole = build_plan(study, corpus)  # an arm that another one stands for is not tuned twice
    models = {arm.name: arm.model for arm in whole.arms}
    seeds = tune.fresh_seeds(study.seeds)
    if set(seeds) & set(study.seeds):
        raise study.refuse(("tune", "seeds"), f"{list(seeds)}: trials need seeds that the matrix does not use")
    varied = vary(study, tune, ("tune",), name=f"{study.study}-tune", seeds=seeds)
    bases = {arm.name: models[arm.baseline] for arm in whole.arms if arm.baseline != arm.name}
    arms = read_arms(varied, names, corpus, tune, expansion.arms, bases)
    if not set(TUNED) & set(tune.space):
        raise study.refuse(("tune", "space"), f"the fair minimum is the learning rate: name {TUNED[0]} with its values")
    _check_readers(study, tune, arms[0])
    problem = Problem(
        study=varied,
        final=study.train,
        tuning=tune,
        objectives=(Objective(),),
        seeds=varied.seeds,
        arms=tuple(arm for arm in arms if arm.label in models),
        corpus=corpus,
    )
    try:
        check_horizon(problem)
    except GridError as error:
        message = f"the matrix, which has other steps than a trial, cannot be trained: {error}"
        raise study.refuse(("tune", "budget"), message) from None
    return problem


def _check_readers(study: Study, tune: Tune, arm: ArmSpace) -> None:
    """Raises `GridError` where an expression of the grid reads a setting of the space: a trial would follow it, and the
    matrix, over which the best values are laid, would not."""
    expander = arm.expander
    predicates: dict[KeyPath, Predicate] = {
        **{("rules", index, "when"): rule for index, rule in enumerate(arm.resolver.rules)},
        **{("exclude", index): rule for index, rule in enumerate(expander.exclusions)},
        **{("conditions", axis): expander.conditions[axis] for axis in study.conditions},
    }
    for place, predicate in predicates.items():
        for name in predicate.names:
            if expander.names.axis_of(name, expander.axes) in tune.space:
                raise study.refuse(place, f"it reads {name}, which the trials vary: name what the arms differ in")


def plan_tuned(problem: Problem, study: Study, trials: Trials) -> Plan:
    """The grid's plan with each arm at its best, and what was tried for the record."""
    best = {search.space.label: _best_params(trials, search.space.label) for search in trials.searches}
    # An arm that another one stands for takes its settings: without them it would be an arm of its own, and untuned.
    best |= {other: best[name] for other, name in build_plan(study, problem.corpus).stands_for.items()}
    laid = [Overlay(dict(params), Source("tune"), arm=label) for label, params in best.items() if params]
    plan = build_plan(study, problem.corpus, laid)
    arms = {search.space.label: describe_arm(trials, search.space.label) for search in trials.searches}
    return replace(plan, tuning={"study": problem.name, "arms": arms})


def describe_arm(trials: Trials, label: str) -> dict[str, Any]:
    """What the report shows of an arm's tuning: the trials that it had, which are more than the file's where that was
    made shorter, the steps of one, the space in words, best values, edges."""
    search = next(search for search in trials.searches if search.space.label == label)
    space, best = search.space, _best_params(trials, label)
    return {
        "trials": sum(ARM in trial.user_attrs for trial in distinct(search.trials)),
        "steps": space.default.train.steps,
        "space": {path: describe_range(parameter) for path, parameter in space.parameters.items()},
        "best": {path: format_value(value) for path, value in best.items()},
        "at_edge": [path for path, value in best.items() if space.parameters[path].is_edge(value)],
    }


def _best_params(trials: Trials, label: str) -> Mapping[str, Any]:
    search = next(search for search in trials.searches if search.space.label == label)
    best = best_of(search)
    return trials.params_of(best.user_attrs[ARM]) if best is not None else {}


def _tune_of(study: Study) -> Tune:
    assert study.tune is not None
    return study.tune
