"""Best against default with fresh seeds: a study of its own, `<search>-confirm`, for a search's best loss flatters."""

from __future__ import annotations

from collections.abc import Iterator

from ablate.plan import Arm, Plan, Run
from ablate.plan.identity import arm_identity, run_id
from ablate.search.arm_search import ARM, best_of
from ablate.search.problem import Problem
from ablate.search.space import ArmSpace, Params
from ablate.search.trials import Trials

SETTINGS = "settings"  # the axis of the confirmation: best or default


def plan_confirmation(problem: Problem, trials: Trials) -> Plan | None:
    """The best of every arm and the defaults, at the horizon and with the seeds of `confirm`.

    None where the file wants none, where an arm has no completed trial, or where there is nothing to compare.
    """
    if problem.confirm is None:
        return None
    seeds = problem.confirm.fresh_seeds(problem.seeds)
    arms = {arm.identity: arm for arm in reversed([*_arms(problem, trials)])}  # the default, where it is the best too
    if not seeds or len(arms) < 2 or any(best_of(search) is None for search in trials.searches):
        return None
    ordered = tuple(reversed(arms.values()))
    first = trials.searches[0].space
    axes = {axis: tuple(dict.fromkeys(arm.axes[axis] for arm in ordered)) for axis in (*first.fixed, SETTINGS)}
    study = problem.confirmed.model_copy(
        update={"study": f"{problem.name}-confirm", "seeds": seeds}
        | {"question": f"Do the settings that {problem.name} found hold with fresh seeds?"}
    )
    runs = tuple(Run(run_id(arm.identity, seed), arm, seed) for seed in seeds for arm in ordered)
    return Plan(study, problem.corpus, axes, ordered[0].axes, ordered, runs, ())


def _arms(problem: Problem, trials: Trials) -> Iterator[Arm]:
    """The first arm's default, which is the baseline, then every arm's best, and the other defaults."""
    spaces = [search.space for search in trials.searches]
    baseline = _name(spaces[0], "default")
    resolver = problem.confirming

    def make(space: ArmSpace, settings: str, params: Params) -> Arm:
        resolved = resolver.resolve(space.assign(params))
        axes = {axis: level.label for axis, level in space.fixed.items()} | {SETTINGS: settings}
        identity = arm_identity(resolved.model, resolved.train, problem.corpus.hash)
        name = _name(space, settings)
        return Arm(name, axes, {}, baseline, resolved.model, resolved.train, resolved.notices, identity)

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
