"""A search put together from what was declared: its arms with their spaces, checked before anything starts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan.expand import Assignment, Expander, arm_name
from ablate.plan.identity import run_id
from ablate.plan.plan import read_names
from ablate.plan.resolve import Resolver
from ablate.plan.setting_names import Names
from ablate.search.objective import check_metrics
from ablate.search.places import SearchSource
from ablate.search.schema import Confirm, Objective, Search
from ablate.search.space import ArmSpace
from ablate.study.load import explain, load_declared
from ablate.study.schema import Study, TrainConfig
from ablate.study.settings import find_same, is_same
from ablate.study.tuning import GRID, Tuning
from ablate.study.yaml_source import KeyPath
from ablate.tracking.study_record import StudyRecord
from ablate_model import ModelConfig


@dataclass(frozen=True)
class Problem:
    """What is searched. `study` has the training of a trial, `final` that of what the search is for."""

    study: Study
    final: TrainConfig
    tuning: Tuning
    objectives: tuple[Objective, ...]
    seeds: tuple[int, ...]
    arms: tuple[ArmSpace, ...]
    corpus: CorpusInfo
    storage: str = ""
    confirm: Confirm | None = None

    @property
    def name(self) -> str:
        return self.study.study

    @property
    def n_trials(self) -> int:
        return sum(arm.count_trials(self.tuning) for arm in self.arms)

    @property
    def confirmed(self) -> Study:
        """The study with the training of the confirmation, which is that of the file but for its steps."""
        steps = self.confirm.steps if self.confirm else None
        train = self.final.model_copy(update={"steps": steps}) if steps else self.final
        return self.study.model_copy(update={"train": train})

    @property
    def confirming(self) -> Resolver:
        """What resolves the arms of the confirmation."""
        expander = self.arms[0].expander
        return Resolver(self.confirmed, expander.names, expander.axes, self.corpus)

    def check_record(self, record: StudyRecord) -> None:
        """Raises `GridError` where the record is not one of this search."""
        mine, theirs = self.declaration(), dict(record.tuning)
        if "space" not in theirs:
            message = f"a study of the name {self.name!r} was run before: give this search another name"
            raise GridError(f"{self.study._source.file}: {message}")
        before = theirs.get("defaults", {})
        mine["defaults"] = {label: mine["defaults"].get(label, known) for label, known in before.items()}
        if self.tuning.is_grid and _is_wider(mine["space"], theirs.get("space", {})):
            theirs["space"] = mine["space"]
        for key, value in mine.items():
            if not is_same(theirs.get(key), value):
                what = "`model`, `train`, `budget`, `data` or `rules`" if key == "defaults" else f"`{key}`"
                raise GridError(
                    f"{self.study._source.file}: {self.name} was run before, with other {what}: "
                    "take that back, or give this search another name"
                )

    def declaration(self) -> dict[str, Any]:
        """What two searches must have in common for their trials to be compared, as the record keeps it."""
        return {
            "space": {
                path: parameter.model_dump(exclude_defaults=True) for path, parameter in self.tuning.space.items()
            },
            "defaults": {arm.label: run_id(arm.identify(arm.default), 0) for arm in self.arms},
            "objectives": [objective.model_dump() for objective in self.objectives],
            "seeds": list(self.seeds),
        }


def load_search(path: str | Path, settings: Sequence[str] = ()) -> Search:
    """The search declared in the file `path`, with each `key=value` of `settings` laid over it.

    Raises `GridError` with one message for everything that is wrong with the file.
    """
    search, source = load_declared(Search, path, settings)
    search._source = source
    return search


def pose(search: Search, corpus: CorpusInfo) -> Problem:
    """The search, with every arm's space checked against the configuration.

    Raises `GridError` for whatever cannot work, naming the place in the file.
    """
    names = read_names()
    declared = search.arm or ((inferred,) if (inferred := _infer_arm(search, names)) else ())
    levels: dict[str, list[Any]] = {axis: [] for axis in (declared[0] if declared else ())}
    for arm in declared:
        for axis, level in arm.items():
            if find_same(level, levels[axis]) is None:
                levels[axis].append(level)
    study = Study.model_construct(
        study=search.search,
        question=search.question,
        data=search.data,
        model=search.model,
        train=search.train,
        rules=search.rules,
        resources=search.resources,
        seeds=search.seeds,
        matrix={axis: tuple(values) for axis, values in levels.items()},
    )
    study._source = search._source
    study = vary(study, search, ())
    expander = Expander(study, names)
    fixed = [
        {axis: expander.axes[axis][find_same(level, levels[axis]) or 0] for axis, level in arm.items()}
        for arm in declared or ({},)
    ]
    labels = [tuple(arm.items()) for arm in fixed]
    if len(set(labels)) < len(labels):
        raise search.refuse(("arm",), "an arm stands twice")
    problem = Problem(
        study=study,
        final=search.train,
        tuning=search,
        objectives=search.objective,
        seeds=search.seeds,
        arms=read_arms(study, names, corpus, search, fixed),
        corpus=corpus,
        storage=search.storage,
        confirm=search.confirm,
    )
    for one, other in itertools.combinations(problem.arms, 2):
        if one.identify(one.default) == other.identify(other.default):
            raise search.refuse(("arm",), f"{one.label} and {other.label} are the same configuration")
    for space in problem.arms:
        try:
            check_metrics(space, search.objective)
        except ValueError as error:
            raise search.refuse(("objective",), str(error)) from None
    if search.confirm.seeds:
        try:
            check_horizon(problem)
        except GridError as error:
            raise search.refuse(("confirm",), f"the confirmation cannot be trained: {error}") from None
    return problem


def check_horizon(problem: Problem) -> None:
    """Raises `GridError` where settings of the space cannot be trained as long as what the search is for."""
    resolver = problem.confirming
    for arm in problem.arms:
        trained = {path: parameter for path, parameter in arm.parameters.items() if path.startswith("train.")}
        ends = [{path: value} for path, parameter in trained.items() for value in parameter.ends]
        for params in ({}, *ends):
            resolver.resolve(arm.assign(params))


def vary(study: Study, tuning: Tuning, prefix: KeyPath, *, name: str = "", seeds: tuple[int, ...] = ()) -> Study:
    """The study with the training of a trial, and the space as further axes, under another name and with other seeds
    where given; `prefix` is where `space` stands in the file.

    Raises `GridError` where matrix and space both set something, or the budget is no training.
    """
    source = study._source
    places = SearchSource(
        source.file, source.lines, source.settings, prefix, frozenset(tuning.space), frozenset(tuning.budget)
    )
    ends = {path: (p.choices or (p.low, p.high)) for path, p in tuning.space.items()}
    conditions = {path: p.when for path, p in tuning.space.items() if p.when}
    shared = sorted(set(ends) & set(study.matrix))
    if shared:
        raise GridError(f"{places.locate(('matrix', shared[0]))}: the arms differ in it, so the search cannot vary it")
    for key in tuning.budget:
        axis = "train.steps" if key == "tokens" else f"train.{key}"
        if axis in tuning.space:
            raise GridError(f"{places.locate(('train', key))}: the space varies {axis}: leave it out here, or there")
        if axis in study.matrix:
            raise GridError(
                f"{places.locate(('train', key))}: the arms differ in {axis}, and a level of an arm wins over the "
                "budget: leave it out, and a trial has its arm's own"
            )
    varied = study.model_copy(
        update={
            "train": _shorten(study, tuning, places),
            "matrix": {**study.matrix, **ends},
            "conditions": {**study.conditions, **conditions},
            "tune": None,
            "study": name or study.study,
            "seeds": seeds or study.seeds,
        }
    )
    varied._source = places
    return varied


def _shorten(study: Study, tuning: Tuning, places: SearchSource) -> TrainConfig:
    """The training of a trial: the study's, with the settings of the budget."""
    changes = dict(tuning.budget)
    tokens = changes.pop("tokens", None)
    length: Any = study.model.get("context_length")
    if tokens is not None and not (type(length) is int and length > 0):
        message = f"a step's tokens are not known, for model.context_length is {length!r}: say `steps`"
        raise GridError(f"{places.locate(('train', 'tokens'))}: {message}")
    try:
        train = TrainConfig.model_validate({**study.train.model_dump(), **changes})
        if tokens is not None:
            changes["steps"] = max(1, tokens // (train.batch_size * length))
            train = TrainConfig.model_validate({**study.train.model_dump(), **changes})
    except ValidationError as error:
        problem = error.errors()[0]
        path: KeyPath = ("train", *problem["loc"])
        place = path if len(path) > 1 else ("train", next(iter(tuning.budget), "steps"))
        raise GridError(f"{places.locate(place)}: {explain(problem, path)}") from None
    return train


def read_arms(
    study: Study,
    names: Names,
    corpus: CorpusInfo,
    tuning: Tuning,
    fixed: Sequence[Assignment],
    bases: Mapping[str, ModelConfig] | None = None,
) -> tuple[ArmSpace, ...]:
    """Every arm with its part of the space; `bases` are the models whose size an arm is to have, by its name.

    Raises `GridError` where a setting exists in none of them, or an arm has none of the settings.
    """
    expander = Expander(study, names)
    resolver = Resolver(study, names, expander.axes, corpus)
    base_of = bases or {}
    arms = tuple(ArmSpace(expander, resolver, tuning.space, arm, base_of.get(arm_name(arm))) for arm in fixed)
    for path, parameter in tuning.space.items():
        if all(path in arm.missing for arm in arms):
            reason = f"its condition {parameter.when!r} holds nowhere" if parameter.when else "no arm has such a knob"
            raise study.refuse(("matrix", path), f"this setting is never reached: {reason}")
    for arm in arms:
        if not arm.parameters:
            raise study.refuse(
                ("matrix", next(iter(tuning.space))), f"the arm {arm.label} has none of the settings of the space"
            )
    if tuning.is_grid:
        _check_grid(study, tuning, arms)
    if "tokens" in tuning.budget:
        _check_tokens(study, tuning, arms)
    return arms


def _is_wider(space: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a space of choices has all that another one has: what was tried there is tried here."""
    return space.keys() == before.keys() and all(
        all(find_same(choice, parameter["choices"]) is not None for choice in before[path].get("choices", [None]))
        and parameter.get("when") == before[path].get("when")
        for path, parameter in space.items()
    )


def _check_tokens(study: Study, tuning: Tuning, arms: Sequence[ArmSpace]) -> None:
    """Raises `GridError` where the tokens of the budget are not as many steps in one trial as in another."""
    place = ("train", "tokens")
    for path in tuning.space:
        if arms[0].names.path(path) in ("train.batch_size", "model.context_length"):
            raise study.refuse(place, f"a step's tokens are not known, for the space varies {path}: say `steps`")
    by_arm = {arm.default.train.batch_size * arm.default.model.context_length: arm.label for arm in arms}
    base = study.train.batch_size * study.model["context_length"]
    for n_tokens, label in by_arm.items():
        if n_tokens != base:
            message = f"a step of the arm {label} has {n_tokens:,} tokens, and not {base:,}: say `steps`"
            raise study.refuse(place, message)


def _check_grid(study: Study, tuning: Tuning, arms: Sequence[ArmSpace]) -> None:
    """Raises `GridError` where the trials are fewer than there are configurations, or more than there are combinations:
    several combinations may come to one configuration, and an arm may lack a setting."""
    if tuning.sampler.arguments:
        argument = next(iter(tuning.sampler.arguments))
        raise study.refuse(("sampler",), f"{GRID} has no argument {argument!r} here: its values are those of the space")
    wanted = max(len(arm.combinations) for arm in arms)
    if not wanted <= tuning.trials <= max(arm.n_spelt for arm in arms):
        label = next(arm.label for arm in arms if len(arm.combinations) == wanted)
        raise study.refuse(
            ("trials",),
            f"{GRID} tries each of the {wanted} combinations of the arm {label or study.study} once: "
            f"say {wanted} (got {tuning.trials})",
        )


def _infer_arm(search: Search, names: Names) -> Mapping[str, Any]:
    """Where neither `arm` nor `model` names a variant and the default one lacks the knobs of the space: the first that
    has them."""
    found = {}
    for component, table in names.variants.items():
        named = search.model.get(component, {})
        if isinstance(named, str) or "name" in named:
            continue
        prefix = f"model.{component}."
        knobs = [
            path.removeprefix(prefix) for path, p in search.space.items() if path.startswith(prefix) and not p.when
        ]
        if knobs and "name" not in knobs:
            owners = [variant for variant in table if all(names.has_knob(component, variant, knob) for knob in knobs)]
            if owners and next(iter(table)) not in owners:
                found[component] = owners[0]
    return found
