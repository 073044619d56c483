"""Resolve an arm's levels into its full model and training configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from ablate.data import CorpusInfo, check_length
from ablate.data.corpora import SequenceInfo
from ablate.data.phases import find_ends
from ablate.errors import DataError, GridError
from ablate.plan.axes import Assignment, Axes, Level, arm_name, holds
from ablate.plan.compiling import choose_compile
from ablate.plan.processes import check_processes, find_slow_processes
from ablate.plan.setup import ModelSetup, Resolved
from ablate.plan.stacking import check_stack
from ablate.plan.start import read_starts
from ablate.study.declaration import Declaration
from ablate.study.load import explain
from ablate.study.overlay import Overlay
from ablate.study.predicates import Environment, Predicate
from ablate.study.schema import TrainConfig
from ablate.study.settings import NAME, Settings, is_same
from ablate.study.yaml_source import Place
from ablate_model import ConfigError, ModelConfig
from ablate_model.own_checks import check_own

MAX_WARMUP_STEPS = 2000  # the warm-up of nGPT's own baseline
LONGEST = 10**12  # steps; a typing error may be too large for a float

Change = tuple[str, Any, Place]  # a dotted path, its new value, and where that stands


class Resolver:
    """Applies an arm's levels and the rules to the base of a declaration, whose task is language modeling.

    `budget` has the places of the settings of `train` that a search's `budget` replaced. `resolve` raises `GridError`
    for a configuration that the model package or the training refuses, naming the line that brought the value in.
    """

    def __init__(
        self,
        declared: Declaration,
        axes: Axes,
        corpus: CorpusInfo,
        overlays: Sequence[Overlay] = (),
        budget: Mapping[str, Place] | None = None,
    ) -> None:
        self.declared, self.axes, self.names, self.corpus = declared, axes, axes.names, corpus
        self.rules = [
            axes.compile(rule.when, declared.place("rules", index, "when")) for index, rule in enumerate(declared.rules)
        ]
        self.base = Settings(declared.settings, budget)
        self._source = declared.source
        self._models: dict[str, ModelConfig] = {}
        self._notices: dict[int, tuple[str, ...]] = {}  # of each model, by its object
        self._changes_of = {level: [*self._read_level(level)] for levels in axes.levels.values() for level in levels}
        self.used = [False] * len(self.rules)
        self.base_environment = self.names.base_environment(declared)
        for index, rule in enumerate(declared.rules):
            for key in rule.set:
                self._check_rule_key(key, declared.place("rules", index, "set", key))
        for component in self.names.variants:
            self._check_base(component)
        self.overlays = [(overlay, self._compile_overlay(overlay)) for overlay in overlays]
        self.starts = read_starts(declared, axes)
        self._has_expressions = bool(self.rules or self.overlays or self.starts is not None)

    @property
    def notices(self) -> list[str]:
        """Remarks about rules that held for no arm resolved so far."""
        return [
            f"the rule {rule.text!r} holds for no arm"
            for rule, used in zip(self.rules, self.used, strict=True)
            if not used
        ]

    def resolve(self, arm: Assignment) -> Resolved:
        settings = Settings(self.base.tree, self.base.places)
        environment = self.axes.environment(arm, self.base_environment) if self._has_expressions else {}
        notices: list[str] = []
        for path, value, place in _names_first(self._changes(arm, environment)):
            self._check_free(path, settings, place)
            notices += self._set(settings, path, value, place)
        for overlay, predicate in self.overlays:
            if overlay.arm in ("", arm_name(arm)):
                notices += self._apply_overlay(overlay, predicate, environment, settings)
        resolved = self._conclude(settings, arm, notices)
        if self.starts is None:
            return resolved
        return replace(resolved, start=self.starts.find(arm, self.declared.seeds, environment))

    def fit(self, resolved: Resolved, arm: Assignment) -> Resolved:
        """Check that an arm can take the weights that it starts from, once its size is final."""
        if self.starts is None or resolved.start is None:
            return resolved
        tokenizer = resolved.setup.tokenizer(self.declared.data)
        start = self.starts.fit(resolved.start, resolved.model, tokenizer, arm_name(arm))
        return replace(resolved, start=start, notices=(*resolved.notices, *start.notices))

    def _conclude(self, settings: Settings, arm: Assignment, notices: Sequence[str]) -> Resolved:
        """Turn the settings of an arm into its setup."""
        if "vocab_size" not in settings.get("model"):
            settings.set("model.vocab_size", self.corpus.vocab_size)
        config = self._parse_model(settings)
        training, chosen = choose_compile(self._parse_train(settings, config), config)
        slower = find_slow_processes(self.declared, training, config)
        check_processes(self.declared, training, arm)
        check_stack(self.declared, config, training, arm)
        if isinstance(self.corpus, SequenceInfo):
            try:
                find_ends(self.corpus.lengths, training.steps)
            except DataError as error:
                raise self.declared.refuse_data(error) from None
        remarks = (*notices, *self._notices[id(config)], *chosen, *slower)
        return Resolved(ModelSetup(config, training), remarks, frozenset(settings.places))

    def _set(self, settings: Settings, path: str, value: Any, place: Place) -> Sequence[str]:
        """Set a value; return remarks about the knobs of another variant that are dropped."""
        component = path.split(".")[-2] if path.endswith(f".{NAME}") else ""
        notices = self._switch(settings, component, value) if component in self.names.variants else ()
        try:
            settings.set(path, value, place)
        except ValueError as error:
            raise place.refuse(f"{path}: {error}") from None
        return notices

    def _compile_overlay(self, overlay: Overlay) -> Predicate:
        for key in overlay.settings:
            try:
                self.names.check_setting(key)
            except ValueError as error:
                raise overlay.place_of(key).refuse(str(error)) from None
        return self.axes.compile(overlay.when or "True", overlay.condition_place)

    def _apply_overlay(
        self, overlay: Overlay, predicate: Predicate, environment: Environment, settings: Settings
    ) -> Iterator[str]:
        """Set what the arm has and its levels leave open; yield remarks about what is left out."""
        if not holds(predicate, environment, overlay.condition_place):
            yield f"{overlay.origin} is for {overlay.when}: left out here: {', '.join(overlay.settings)}"
            return
        changes = [
            (path, setting, overlay.place_of(key))
            for key, value in overlay.settings.items()
            for path, setting in self.names.spread(key, value)
        ]
        for path, value, place in _names_first(changes):
            root, component, *knob = (*path.split("."), "") if "." not in path else path.split(".")
            table = self.names.variants.get(component, {}) if root == "model" else {}
            variant = settings.get(f"model.{component}.{NAME}") or next(iter(table), "")
            if any(near.level for near in settings.places_near(path)):
                yield f"{overlay.origin}: {path} is left out: a level of the arm sets it"
            elif table and knob not in ([], [NAME]) and not self.names.has_knob(component, variant, ".".join(knob)):
                yield f"{overlay.origin}: {path} is left out: {variant} has no such knob"
            else:
                yield from self._set(settings, path, value, place)

    def _changes(self, arm: Assignment, environment: Environment) -> Iterator[Change]:
        """Settings from the levels of an arm, then those from the rules that hold for it."""
        for level in arm.values():
            yield from self._changes_of.get(level) or self._read_level(level)  # a search makes levels of its own
        for index, (rule, predicate) in enumerate(zip(self.declared.rules, self.rules, strict=True)):
            if holds(predicate, environment, self.declared.place("rules", index, "when")):
                self.used[index] = True
                for key, value in rule.set.items():
                    for path, setting in self.names.spread(key, value):
                        yield path, setting, self.declared.place("rules", index, "set", key)

    def _read_level(self, level: Level) -> Iterator[Change]:
        place = Place(self._source, level.place, level.text)
        for key, value in {level.axis: level.name, **level.overrides}.items():
            for path, setting in self.names.spread(key, value):
                yield path, setting, place

    def _check_free(self, path: str, settings: Settings, place: Place) -> None:
        """A later rule overrides an earlier one, but nothing may change what a level sets: it says what the arm is."""
        for near in settings.places_near(path):
            if near.level:
                raise place.refuse(f"the level {near.level} sets {path} too")

    def _check_rule_key(self, key: str, place: Place) -> None:
        try:
            self.names.check_setting(key)
        except ValueError as error:
            raise place.refuse(str(error)) from None
        if self.names.axis_of(key, self.axes.levels) is not None:
            raise place.refuse(f"{key!r} is an axis of the matrix: a rule cannot set it; exclude the arms instead")

    def _check_base(self, component: str) -> None:
        """Check a component's knobs in the base. Each goes to the variants that have it, so one must have it."""
        base = self.declared.model.get(component, {})
        if not isinstance(base, str | dict):
            message = f"expected a name, or a mapping with a name, got {base!r}"
            raise self.declared.refuse(("model", component), message)
        if isinstance(base, str):
            self.base.set(f"model.{component}", {NAME: base})
            return
        for knob in (key for key in base if key not in (NAME, "version")):
            try:
                self.names.check_knob(component, knob)
            except ValueError as error:
                raise self.declared.refuse(("model", component, knob), str(error)) from None

    def _switch(self, settings: Settings, component: str, variant: Any) -> list[str]:
        """Keep the knobs of the base that another variant has as well."""
        base = settings.get(f"model.{component}") or {}
        if is_same(base.get(NAME, variant), variant) and (NAME in base or not base):
            return []
        kept = {key: value for key, value in base.items() if self.names.has_knob(component, variant, key)}
        settings.set(f"model.{component}", kept)
        left_out = [key for key in base if key != NAME and key not in kept]
        return [f"{variant} has no knob {key!r}: model.{component}.{key} is left out" for key in left_out]

    def _parse_model(self, settings: Settings) -> ModelConfig:
        """Parse the model. Arms with the same model share one config, which keeps plans of many arms fast."""
        key = repr(settings.get("model"))
        if key not in self._models:
            config = self._models[key] = self._check_model(settings)
            self._notices[id(config)] = config.notices()
        return self._models[key]

    def _check_model(self, settings: Settings) -> ModelConfig:
        config = self._build_model(settings, ModelConfig)
        if config.vocab_size < self.corpus.vocab_size and self.declared.data.source != "bin":
            raise self._refuse(
                "model.vocab_size",
                settings,
                f"{config.vocab_size} is less than the {self.corpus.vocab_size} tokens of the tokenizer "
                f"{self.declared.data.tokenizer!r}",
            )
        if (largest := self.corpus.largest_token) is not None and config.vocab_size <= largest:
            raise self._refuse(
                "model.vocab_size",
                settings,
                f"the corpus contains the token {largest}, beyond a vocabulary of {config.vocab_size} "
                f"(legal: at least {largest + 1})",
            )
        try:
            check_length(self.corpus, config.context_length)
        except DataError as error:
            raise self._refuse("model.context_length", settings, str(error)) from None
        return config

    def _build_model(self, settings: Settings, kind: type[ModelConfig]) -> ModelConfig:
        try:
            config = kind.parse(settings.get("model"))
            check_own(config)
        except ConfigError as error:
            path = f"model.{error.path}" if error.path else "model"
            raise self._refuse(path, settings, f"{error.message}{self._hint(error)}") from None
        return config

    def _hint(self, error: ConfigError) -> str:
        """What to do about the error. An axis over a knob that only some variants have needs a condition."""
        component, _, knob = error.path.partition(".")
        owners = self.names.owners(component, knob)
        near = [axis for axis in self.axes.levels if self.names.path(axis).startswith(f"model.{error.path}")]
        if knob and owners and near and "unknown key" in error.message:
            condition = " or ".join(f"{component} == '{name}'" for name in owners)
            return f"; it exists for {', '.join(owners)}: write `conditions: {{{near[0]}: {condition}}}`"
        return f" (legal: {', '.join(map(str, error.legal))})" if error.legal else ""

    def _parse_train(self, settings: Settings, model: ModelConfig) -> TrainConfig:
        recipe, train = model.recipe(), dict(settings.get("train"))
        if train.get("weight_decay") is None:
            train["weight_decay"] = recipe["weight_decay"]
        if train.get("warmup_steps") is None and isinstance(steps := train.get("steps"), int):
            train["warmup_steps"] = min(MAX_WARMUP_STEPS, int(recipe["warmup_fraction"] * min(steps, LONGEST)))
        try:
            return TrainConfig.model_validate(self.names.own.fit(train))
        except ValidationError as error:
            problem = error.errors()[0]
            path = ("train", *problem["loc"])
            raise self._refuse(".".join(map(str, path)), settings, explain(problem, path)) from None

    def _refuse(self, path: str, settings: Settings, message: str) -> GridError:
        """The error, with the place that set the value. Without one, it points at the last setting that the message
        names, or else at the value of the base."""
        own = [*settings.places_near(path)][:1] if "." in path else []
        said = message.partition(" (legal:")[0]
        named = [
            place
            for other, place in settings.places.items()
            if other.startswith(f"{path.split('.')[0]}.") and re.search(rf"\b{other.rpartition('.')[2]}\b", said)
        ]
        for place in (*own, *reversed(named)):
            prefix = "" if str(place.keys[-1]).startswith(path) else f"{path}: "
            return place.refuse(f"{prefix}{message}")
        return self.declared.refuse(tuple(path.split(".")), message)


def _names_first(changes: Iterable[Change]) -> list[Change]:
    """Sort names of components before knobs, because a knob belongs to the variant of that name."""
    return sorted(changes, key=lambda change: not change[0].endswith(f".{NAME}"))
