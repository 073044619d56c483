"""From a search.yaml, or a grid's `tune:`, to a `Problem`, checked before anything starts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan import build_plan
from ablate.plan.axes import Assignment, Axes, arm_name
from ablate.plan.expand import expand
from ablate.plan.resolve import Resolver
from ablate.plan.setting_names import Names
from ablate.plan.tasks import make_resolver, metrics_of, read_names
from ablate.search.budget import shorten
from ablate.search.objective import check_metrics
from ablate.search.problem import Problem
from ablate.search.schema import Objective, Search
from ablate.search.space import ArmSpace
from ablate.study.axis import Axis
from ablate.study.declaration import Declaration, Match, Study
from ablate.study.load import load_declared
from ablate.study.predicates import Predicate
from ablate.study.schema import LEARNING_RATES
from ablate.study.settings import NAME, Settings, find_same
from ablate.study.tuning import GRID, Tuning
from ablate.study.yaml_source import KeyPath
from ablate_model import ModelConfig

TUNED = tuple(f"train.{name}" for name in LEARNING_RATES)


def load_search(path: str | Path, settings: Sequence[str] = ()) -> Search:
    """Read the search that the file `path` declares; each `key=value` of `settings` overrides a value of the file.

    Raises `GridError` with one message for everything that is wrong with the file.
    """
    return load_declared(Search, path, settings)


def pose(search: Search, corpus: CorpusInfo) -> Problem:
    """The problem of a search.yaml, with the space of every arm checked against the arm's configuration.

    Raises `GridError` for everything that cannot work, naming the place in the file.
    """
    declared = search.arm or tuple(arm for arm in [_infer_arm(search, read_names(search))] if arm)
    values: dict[str, list[Any]] = {axis: [] for axis in (declared[0] if declared else ())}
    for arm in declared:
        for axis, level in arm.items():
            if find_same(level, values[axis]) is None:
                values[axis].append(level)
    own = [Axis(axis, tuple(levels), ("arm", axis)) for axis, levels in values.items()]
    axes, resolver = _vary(search, own, search, corpus)
    fixed = [
        {axis: axes.levels[axis][find_same(level, values[axis]) or 0] for axis, level in arm.items()}
        for arm in declared or ({},)
    ]
    labels = [tuple(arm.items()) for arm in fixed]
    if len(set(labels)) < len(labels):
        raise search.refuse(("arm",), "an arm is listed twice")
    problem = Problem(
        study=axes.declared,
        whole=search,
        tuning=search,
        objectives=_complete_objectives(search),
        arms=_read_arms(axes, resolver, search, fixed),
        corpus=corpus,
        storage=search.storage,
        confirm=search.confirm,
    )
    for one, other in itertools.combinations(problem.arms, 2):
        if one.identify(one.default) == other.identify(other.default):
            raise search.refuse(("arm",), f"{one.label} and {other.label} are the same configuration")
    for space in problem.arms:
        try:
            check_metrics(space, problem.objectives, metrics_of(search))
        except ValueError as error:
            raise search.refuse(("objective",), str(error)) from None
    if search.confirm.seeds:
        try:
            problem.check_horizon()
        except GridError as error:
            raise search.refuse(("confirm",), f"the confirmation cannot be trained: {error}") from None
    return problem


def _complete_objectives(search: Search) -> tuple[Objective, ...]:
    try:
        return tuple(objective.complete(metrics_of(search)) for objective in search.objective)
    except ValueError as error:
        raise search.refuse(("objective",), str(error)) from None


def pose_tuning(study: Study, corpus: CorpusInfo) -> Problem:
    """The problem of a grid's `tune:`, named `<study>-tune`, with an arm for each arm of the grid.

    Its seeds differ from the matrix's, because the trials must not see the runs that they are to predict. Raises
    `GridError` where the space cannot be searched for some arm, lacks the learning rate, or has a setting that a rule,
    a condition or an exclusion reads.
    """
    tune = study.tune
    assert tune is not None
    expansion = expand(study, Axes(study, read_names(study), study.axes))
    whole = build_plan(study, corpus)  # an arm that another one stands for is not tuned twice
    names = {arm.name for arm in whole.arms}
    models = {arm.name: arm.model for arm in whole.arms} if study.match != "none" else {}
    seeds = tune.fresh_seeds(study.seeds)
    if study.program is not None and tune.screen is not None:
        raise study.refuse(("tune", "screen"), "a program cannot wait: leave screen out")
    if set(seeds) & set(study.seeds):
        raise study.refuse(("tune", "seeds"), f"{list(seeds)}: trials need seeds that the matrix does not use")
    declared = study.replace(name=f"{study.name}-tune", seeds=seeds)
    if study.start_from is not None:
        # The parents have the seeds of the matrix, not those of the trials.
        stand_ins = dict(zip(seeds, itertools.cycle(study.seeds), strict=False))
        declared = declared.replace(start_from=study.start_from.model_copy(update={"stand_ins": stand_ins}))
    axes, resolver = _vary(declared, study.axes, tune, corpus)
    bases = {arm.name: models[arm.baseline] for arm in whole.arms if models and arm.baseline != arm.name}
    arms = _read_arms(axes, resolver, tune, expansion.arms, study.match, bases)
    if study.program is None and not set(TUNED) & set(tune.space):
        raise study.refuse(("tune", "space"), f"tuning must include the learning rate: add {TUNED[0]} with its values")
    _check_readers(study, axes, resolver)
    problem = Problem(
        study=axes.declared,
        whole=study,
        tuning=tune,
        objectives=(Objective().complete(metrics_of(study)),),
        arms=tuple(arm for arm in arms if arm.label in names),
        corpus=corpus,
    )
    for arm in problem.arms if tune.screen is not None else ():
        if problem.screen_step(arm.default.train) == arm.default.train.steps:
            when = f"the next evaluation after {tune.screen:.0%} of the steps of {arm.label} is at its last step"
            raise study.refuse(("tune", "screen"), f"{when}: lower screen, or train.eval_every")
    try:
        problem.check_horizon()
    except GridError as error:
        message = f"the matrix, whose steps differ from a trial's, cannot be trained: {error}"
        raise study.refuse(("tune", "budget"), message) from None
    return problem


def _vary(declared: Declaration, own: Sequence[Axis], tuning: Tuning, corpus: CorpusInfo) -> tuple[Axes, Resolver]:
    """The axes of the arms with the space as further axes, and the resolver for trials.

    Raises `GridError` where an arm and the space, or one of them and the budget, set the same thing, or where the
    budget is not a valid training.
    """
    space = []
    for path, parameter in tuning.space.items():
        place: KeyPath = (*tuning.SECTION, "space", path)
        values = parameter.choices or (parameter.low, parameter.high)
        space.append(Axis(path, values, place, parameter.when or None, (*place, "when")))
    taken = {axis.name for axis in own}
    for axis in sorted(space, key=lambda axis: axis.name):
        if axis.name in taken:
            raise declared.refuse(axis.place, "the arms differ in it, so the search cannot vary it")
    places = {}
    for key in tuning.budget:
        budget = declared.place(*tuning.SECTION, "budget", key)
        path = "train.steps" if key == "tokens" else f"train.{key}"
        if path in tuning.space:
            raise budget.refuse(f"the space varies {path}: leave it out here, or there")
        if path in taken:
            raise budget.refuse(
                f"the arms differ in {path}, and a level of an arm overrides the budget: leave it out, and a trial has "
                "its arm's own"
            )
        places[path] = budget
    varied = shorten(declared, tuning)
    axes = Axes(varied, read_names(varied), (*own, *space))
    return axes, make_resolver(varied, axes, corpus, budget=places)


def _read_arms(
    axes: Axes,
    resolver: Resolver,
    tuning: Tuning,
    fixed: Sequence[Assignment],
    match: Match = "none",
    bases: Mapping[str, ModelConfig] | None = None,
) -> tuple[ArmSpace, ...]:
    """Every arm with its part of the space. `bases` has the model whose size an arm must have, by name.

    Raises `GridError` where no arm has some setting, or an arm has none of the settings.
    """
    base_of = bases or {}
    arms = tuple(ArmSpace(axes, resolver, tuning, arm, match, base_of.get(arm_name(arm))) for arm in fixed)
    for path, parameter in tuning.space.items():
        if all(path in arm.missing for arm in arms):
            reason = f"its condition {parameter.when!r} holds nowhere" if parameter.when else "no arm has such a knob"
            place = (*tuning.SECTION, "space", path)
            raise axes.declared.refuse(place, f"this setting is never reached: {reason}")
    for arm in arms:
        if not arm.parameters:
            place = (*tuning.SECTION, "space", next(iter(tuning.space)))
            raise axes.declared.refuse(place, f"the arm {arm.label} has none of the settings of the space")
    if tuning.is_grid:
        _check_grid(axes.declared, tuning, arms)
    if "tokens" in tuning.budget:
        _check_tokens(axes.declared, tuning, arms)
    return arms


def _check_tokens(declared: Declaration, tuning: Tuning, arms: Sequence[ArmSpace]) -> None:
    """Raises `GridError` where the tokens of the budget make more steps in one trial than in another."""
    place = (*tuning.SECTION, "budget", "tokens")
    for path in tuning.space:
        if arms[0].names.path(path) in ("train.batch_size", "model.context_length"):
            message = f"the tokens per step are unknown because the space varies {path}: use `steps` instead"
            raise declared.refuse(place, message)
    by_arm = {arm.default.train.batch_size * arm.default.model.context_length: arm.label for arm in arms}
    base = declared.train.batch_size * declared.model["context_length"]
    for n_tokens, label in by_arm.items():
        if n_tokens != base:
            message = f"a step of the arm {label} has {n_tokens:,} tokens instead of {base:,}: use `steps` instead"
            raise declared.refuse(place, message)


def _check_grid(declared: Declaration, tuning: Tuning, arms: Sequence[ArmSpace]) -> None:
    """Raises `GridError` where `trials` is less than the number of configurations, or more than that of combinations.

    The two differ because several combinations may be one configuration, and an arm may lack a setting.
    """
    if tuning.sampler.arguments:
        argument = next(iter(tuning.sampler.arguments))
        message = f"{GRID} has no argument {argument!r} here: its values come from the space"
        raise declared.refuse((*tuning.SECTION, "sampler"), message)
    wanted = max(len(arm.combinations) for arm in arms)
    if not wanted <= tuning.trials <= max(arm.n_spelt for arm in arms):
        label = next(arm.label for arm in arms if len(arm.combinations) == wanted)
        raise declared.refuse(
            (*tuning.SECTION, "trials"),
            f"{GRID} tries each of the {wanted} combinations of the arm {label or declared.name} once: "
            f"set trials to {wanted} (got {tuning.trials})",
        )


def _check_readers(study: Study, axes: Axes, resolver: Resolver) -> None:
    """Raises `GridError` where an expression of the grid reads a setting that the trials vary.

    A trial would follow such an expression, but the matrix, which the best values override, would not.
    """
    assert study.tune is not None

    def predicates() -> Iterator[tuple[KeyPath, Predicate]]:
        yield from ((("rules", index, "when"), rule) for index, rule in enumerate(resolver.rules))
        for index, text in enumerate(study.exclude):
            yield ("exclude", index), axes.compile(text, study.place("exclude", index))
        yield from ((("conditions", axis), axes.conditions[axis]) for axis in study.conditions)

    for place, predicate in predicates():
        for name in predicate.names:
            if axes.names.axis_of(name, axes.levels) in study.tune.space:
                message = f"it reads {name}, which the trials vary: use a setting in which the arms differ"
                raise study.refuse(place, message)


def _infer_arm(search: Search, names: Names) -> dict[str, Any]:
    """The first variant that has the knobs of the space, where the file names no variant and the default lacks them."""
    found, settings = {}, Settings({"model": search.model})
    for component, table in names.variants.items():
        prefix = f"model.{component}."
        if settings.get(f"{prefix}{NAME}") is not None:
            continue
        knobs = [
            path.removeprefix(prefix) for path, p in search.space.items() if path.startswith(prefix) and not p.when
        ]
        if knobs and NAME not in knobs:
            owners = [variant for variant in table if all(names.has_knob(component, variant, knob) for knob in knobs)]
            if owners and next(iter(table)) not in owners:
                found[component] = owners[0]
    return found
