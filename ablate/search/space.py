"""The settings that an arm varies: their values, their defaults, and the conditions under which they exist."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ablate.errors import GridError
from ablate.plan.axes import Assignment, Axes, Level, arm_name
from ablate.plan.match import SIZES, MatchError, match_size
from ablate.plan.resolve import Resolver
from ablate.plan.setup import Resolved
from ablate.study.declaration import Match
from ablate.study.settings import Settings, find_same, is_same, value_key
from ablate.study.tuning import GRID, MAX_TRIALS, Parameter, Tuning
from ablate_model import ModelConfig

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Params = Mapping[str, Any]  # dotted path to value

MAX_COMBINATIONS = 20_000  # of values tried to find some for which a condition holds
MAX_LISTED = 1_000  # combinations to list for a sampler that draws


class ArmSpace:
    """One arm's part of the space. `base` is the model whose size the arm must have, where the study matches sizes; a
    baseline has none.

    `parameters` are in drawing order: a condition reads only earlier ones. `missing` are the paths that the arm lacks.
    Raises `GridError` for a value that the arm cannot take.
    """

    def __init__(
        self,
        axes: Axes,
        resolver: Resolver,
        tuning: Tuning,
        fixed: Assignment,
        match: Match = "none",
        base: ModelConfig | None = None,
    ) -> None:
        self.axes, self.resolver, self.fixed, self.match, self.base = axes, resolver, fixed, match, base
        self.names, self._section = axes.names, (*tuning.SECTION, "space")
        self.label = arm_name(fixed)
        self.parameters: dict[str, Parameter] = {}
        self._places: dict[str, Params] = {}
        missing = []
        for path in sorted((path for path in axes.order if path in tuning.space), key=self._comes_later):
            place = self._find_place(path)
            if place is None:
                missing.append(path)
                continue
            self.parameters[path] = parameter = self._type(path, tuning.space[path], place)
            self._places[path] = place
            for value in parameter.ends:
                if self.resolve({**place, path: value}).setup.measured != self.default.setup.measured:
                    raise self._refuse(path, "it changes the validation data, so its trials could not be compared")
        self.missing = tuple(missing)

    def resolve(self, params: Params) -> Resolved:
        """The arm with these settings. Raises `GridError` where they are incompatible."""
        return self.resolver.fit(self._resize(params), self.fixed)

    def _resize(self, params: Params) -> Resolved:
        """The arm with these settings, in the size that it must have."""
        resolved = self.resolver.resolve(self.assign(params))
        match = self.match
        if match == "none":
            return resolved
        if "model.d_ff" in resolved.settings:
            raise self.axes.declared.refuse(("match",), f"match adapts d_ff, which the arm {self.label} sets itself")
        if self.base is None:
            if params and SIZES[match](resolved.model) != SIZES[match](self.default.model):
                message = f"other arms are matched to {self.label}, so its trials need one size in {match}, and"
                raise self.axes.declared.refuse(("match",), f"{message} {', '.join(params)} would change it")
            return resolved
        try:
            return resolved.with_model(match_size(resolved.model, self.base, match))
        except MatchError as error:
            raise self.axes.declared.refuse(("match",), f"the arm {self.label} {error}") from None

    @cached_property
    def default(self) -> Resolved:
        """The arm at the defaults: those of the file, or else of the variant."""
        return self.resolve({})

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default of every setting that exists at the defaults, spelled as in the file's choices."""
        found: dict[str, Any] = {}
        for path in self.parameters:
            value = self._read(self.default, path)
            if value is not None and self.axes.exists(path, self.assign(found)):
                found[path] = self._spell(path, value, found)
        return found

    def _spell(self, path: str, value: Any, others: Params) -> Any:
        """The choice that resolves to the value: `auto` where it means the default `rms`."""
        parameter = self.parameters[path]
        for choice in () if parameter.holds(value) else parameter.choices:
            with suppress(GridError):
                if is_same(self._read(self.resolve({**others, path: choice}), path), value):
                    return choice
        return value

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for path, parameter in self.parameters.items():
            if parameter.choices:
                found[path] = CategoricalDistribution(parameter.choices)
            elif parameter.is_int:
                low, high = parameter.values[:2]
                found[path] = IntDistribution(low, high, parameter.log, int(parameter.step or 1))
            else:
                low, high = parameter.values[:2]
                found[path] = FloatDistribution(low, high, parameter.log, parameter.step)
        return found

    def extremes(self) -> Iterator[Resolved]:
        """The arm at its defaults, and with each setting at each of its ends."""
        yield self.default
        for path, place in self._places.items():
            for value in self.parameters[path].ends:
                yield self.resolve({**place, path: value})

    @property
    def is_conditional(self) -> bool:
        return any(parameter.when for parameter in self.parameters.values())

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw every setting that exists, in order. A setting that the trial already has keeps its value."""
        params: dict[str, Any] = {}
        for path in self.parameters:
            if self.axes.exists(path, self.assign(params)):
                params[path] = self.suggest_one(trial, path)
        return params

    def suggest_one(self, trial: Trial, path: str) -> Any:
        parameter = self.parameters[path]
        if parameter.choices:
            return trial.suggest_categorical(path, parameter.choices)
        low, high = parameter.values[:2]
        if parameter.is_int:
            return trial.suggest_int(path, low, high, step=int(parameter.step or 1), log=parameter.log)
        return trial.suggest_float(path, low, high, step=parameter.step, log=parameter.log)

    @cached_property
    def combinations(self) -> dict[Hashable, list[Params]]:
        """The defaults, then every combination of choices in the order of the file, grouped by configuration.

        The key of a configuration is its identity; one that the model refuses has its own key. Raises `GridError` for a
        range, and for more combinations than a search can have trials.
        """
        for path, parameter in self.parameters.items():
            if not parameter.choices:
                message = f"{GRID} tries every combination of choices, but this is a range: list the values"
                raise self._refuse(path, message)
        if self.n_combinations > MAX_TRIALS:
            message = f"the choices have {self.n_combinations:,} combinations, more than {MAX_TRIALS:,}"
            raise self._refuse(next(iter(self.parameters)), message)
        found: dict[Hashable, list[Params]] = {self.identify(self.default): [self.defaults]}
        for params in self._combine(self.parameters):
            try:
                key: Hashable = self.identify(self.resolve(params))
            except GridError:
                key = value_key(params)
            group = found.setdefault(key, [])
            if find_same(params, group) is None:
                group.append(params)
        return found

    @property
    def n_combinations(self) -> int:
        """The number of combinations of choices; 0 where a setting has a range."""
        return math.prod(len(parameter.choices) for parameter in self.parameters.values())

    @property
    def n_spelt(self) -> int:
        """The number of combinations by spelling, plus one for defaults that are not among the choices."""
        is_listed = all(is_same(self._read(self.default, path), value) for path, value in self.defaults.items())
        return sum(map(len, self.combinations.values())) + (not is_listed)

    def count_trials(self, tuning: Tuning) -> int:
        """The number of configurations that a search tries for this arm, at most all of them."""
        if tuning.is_grid:
            return len(self.combinations)
        is_small = 0 < self.n_combinations <= MAX_LISTED
        return min(tuning.trials, len(self.combinations)) if is_small else tuning.trials

    def identify(self, resolved: Resolved) -> str:
        """The identity of the arm with some settings. Equal configurations have equal identities."""
        return resolved.identity(self.resolver.corpus.hash)

    def assign(self, params: Params) -> dict[str, Level]:
        """The arm's levels, with these settings as further levels."""
        return {
            **self.fixed,
            **{path: Level(path, 0, value, value, (*self._section, path)) for path, value in params.items()},
        }

    def _refuse(self, path: str, message: str) -> GridError:
        """The error to raise about a setting of the space."""
        return self.axes.declared.refuse((*self._section, path), message)

    # Checking

    def _comes_later(self, path: str) -> bool:
        """Sort key: a component's name is drawn before its knobs, unless it is conditional itself."""
        return path in self.axes.conditions or not self.names.path(path).endswith(".name")

    def _find_place(self, path: str) -> dict[str, Any] | None:
        """Settings for which `path` exists in this arm, or None.

        Raises `GridError` where only some of the variants that its condition allows have it.
        """
        lacking, place = "", None
        deciding = [other for other in self.parameters if self._decides(other, path)]
        for params in itertools.islice(self._combine(deciding), MAX_COMBINATIONS):
            assignment = self.assign(params)
            if not self.axes.exists(path, assignment):
                continue
            variant = self._variant_without(path, assignment)
            if not variant:
                place = params if place is None else place
            lacking = lacking or variant
        if place is not None and lacking:
            _, component, *knob = self.names.path(path).split(".")
            condition = " or ".join(
                f"{component} == '{owner}'" for owner in self.names.owners(component, ".".join(knob))
            )
            raise self._refuse(path, f"{lacking} has no such knob: write `when: {condition}`")
        return place

    def _combine(self, paths: Collection[str]) -> Iterator[dict[str, Any]]:
        """Every combination of values of these settings, each setting only where it exists."""
        for values in itertools.product(*(self.parameters[path].values for path in paths)):
            params: dict[str, Any] = {}
            for path, value in zip(paths, values, strict=True):
                if self.axes.exists(path, self.assign(params)):
                    params[path] = value
            yield params

    def _decides(self, other: str, path: str) -> bool:
        """Tell if the existence of `path` depends on `other`."""
        condition = self.axes.conditions.get(path)
        read = {self.names.axis_of(name, self.axes.levels) for name in condition.names} if condition else set()
        return (
            other in read
            or self.names.path(other) == self._component(path)
            or any(self._decides(other, name) for name in read if name in self.parameters)
        )

    def _component(self, path: str) -> str:
        """The setting that decides which knobs exist: `model.attention.name` for `model.attention.num_maps`."""
        _, component, *knob = full if len(full := self.names.path(path).split(".")) > 1 else ("", "")
        return f"model.{component}.name" if component in self.names.variants and knob not in ([], ["name"]) else ""

    def _variant_without(self, path: str, assignment: Assignment) -> str:
        """The variant of this assignment if it lacks the knob at `path`, else an empty text."""
        component = self._component(path)
        if not component:
            return ""
        variant = str(self.axes.environment(assignment)[component])
        _, name, *knob = self.names.path(path).split(".")
        return "" if self.names.has_knob(name, variant, ".".join(knob)) else variant

    def _read(self, resolved: Resolved, path: str) -> Any:
        return Settings(resolved.setup.to_dict()).get(self.names.path(path))

    def _type(self, path: str, parameter: Parameter, place: Params) -> Parameter:
        """Make the range one of whole numbers where the setting's default is a whole number."""
        if parameter.choices or parameter.type:
            return parameter
        default = self._read(self.resolve(place), path)
        is_int = isinstance(default, int) and not isinstance(default, bool)
        try:
            return Parameter.model_validate({**parameter.model_dump(), "type": "int" if is_int else "float"})
        except ValueError:
            message = f"this setting is a whole number (default {default}), so low, high and step must be too"
            raise self._refuse(path, message) from None
