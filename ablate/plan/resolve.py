"""An arm's levels to its full model and training configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ablate.data import CorpusInfo, check_length
from ablate.errors import DataError, GridError
from ablate.plan.expand import Assignment, Level, arm_name, compile_predicate, read_predicate
from ablate.plan.setting_names import Names
from ablate.study.load import explain
from ablate.study.overlay import Overlay
from ablate.study.predicates import Predicate, PredicateError
from ablate.study.schema import Study, TrainConfig
from ablate.study.settings import NAME, Settings, is_same
from ablate.study.yaml_source import KeyPath
from ablate_model import ConfigError, ModelConfig

MAX_WARMUP_STEPS = 2000  # nGPT's own baseline warms up for 2000 steps; a short run for a share of its own
LONGEST = 10**12  # steps; a typing error may be too large for a float


@dataclass(frozen=True)
class Resolved:
    """What an arm is. `notices` are remarks that its reader should see."""

    model: ModelConfig
    train: TrainConfig
    notices: tuple[str, ...]
    settings: frozenset[str]  # the dotted paths that its levels and rules set


class Resolver:
    """Lays an arm's levels and the rules over the base of the grid.

    `resolve` raises `GridError` for a configuration that the model package or the training refuses, naming the line
    that brought the value in.
    """

    def __init__(
        self,
        study: Study,
        names: Names,
        axes: Mapping[str, tuple[Level, ...]],
        corpus: CorpusInfo,
        overlays: Sequence[Overlay] = (),
    ) -> None:
        self.study, self.names, self.axes, self.corpus = study, names, axes, corpus
        self.rules = [
            compile_predicate(study, names, axes, rule.when, ("rules", index, "when"))
            for index, rule in enumerate(study.rules)
        ]
        self.base = {
            "model": {
                key: {NAME: value} if key in names.variants and isinstance(value, str) else value
                for key, value in study.model.items()
            },
            "train": study.train.model_dump(),
        }
        self._models: dict[str, ModelConfig] = {}
        self.used = [False] * len(self.rules)
        self.base_environment = names.base_environment(study)
        for index, rule in enumerate(study.rules):
            for key in rule.set:
                self._check_rule_key(index, key)
        for component in names.variants:
            self._check_base(component)
        self.overlays = [(overlay, self._compile_overlay(overlay)) for overlay in overlays]

    @property
    def notices(self) -> list[str]:
        """About rules that held for no arm resolved so far."""
        return [
            f"the rule {rule.text!r} holds for no arm"
            for rule, used in zip(self.rules, self.used, strict=True)
            if not used
        ]

    def resolve(self, arm: Assignment) -> Resolved:
        settings = Settings(self.base)
        notices: list[str] = []
        for path, value, place in _names_first(self._settings(arm)):
            self._check_free(path, settings, place)
            notices += self._set(settings, path, value, place)
        for index in range(len(self.overlays)):
            notices += self._lay_over(arm, index, settings)
        settings.tree["model"].setdefault("vocab_size", self.corpus.vocab_size)
        config = self._parse_model(settings)
        training = self._parse_train(settings, config)
        self._check_processes(training, arm)
        return Resolved(config, training, (*notices, *config.notices()), frozenset(settings.places))

    def _set(self, settings: Settings, path: str, value: Any, place: KeyPath) -> Sequence[str]:
        """Set it, and say which knobs another variant does not take over."""
        *_, component, last = path.split(".")
        notices = self._switch(settings, component, value) if last == NAME and component in self.names.variants else ()
        try:
            settings.set(path, value, place)
        except ValueError as error:
            raise self._refuse_at(place, f"{path}: {error}") from None
        return notices

    def _compile_overlay(self, overlay: Overlay) -> Predicate:
        for key in overlay.settings:
            try:
                self.names.check_setting(key)
            except ValueError as error:
                raise GridError(f"{overlay.locate(key)}: {error}") from None
        try:
            return read_predicate(self.study, self.names, self.axes, overlay.when or "True")
        except ValueError as error:
            raise GridError(f"{overlay.locate_condition()}: {error}") from None

    def _lay_over(self, arm: Assignment, index: int, settings: Settings) -> Iterator[str]:
        """Set what the arm has and leaves open; what is left out is said."""
        overlay, predicate = self.overlays[index]
        if overlay.arm and overlay.arm != arm_name(arm):
            return
        if not self._applies(overlay, predicate, arm):
            left_out = ", ".join(overlay.settings)
            yield f"{overlay.origin} is for {overlay.when}: left out here: {left_out}"
            return
        spread = [
            setting
            for key, value in overlay.settings.items()
            for setting in self.names.spread(key, value, ("overlay", index, key))
        ]
        for path, value, place in _names_first(spread):
            root, component, *knob = path.split(".")
            table = self.names.variants.get(component, {}) if root == "model" else {}
            variant = settings.get(f"model.{component}.name") or next(iter(table), "")
            if any(near[0] == "matrix" for near in settings.places_near(path)):
                yield f"{overlay.origin}: {path} is left out: a level of the arm sets it"
            elif table and knob not in ([], [NAME]) and not self.names.has_knob(component, variant, ".".join(knob)):
                yield f"{overlay.origin}: {path} is left out: {variant} has no such knob"
            else:
                yield from self._set(settings, path, value, place)

    def _applies(self, overlay: Overlay, predicate: Predicate, arm: Assignment) -> bool:
        try:
            return predicate(self.names.environment(self.base_environment, self.axes, arm))
        except PredicateError as error:
            raise GridError(f"{overlay.locate_condition()}: {error}") from None

    def _settings(self, arm: Assignment) -> Iterator[tuple[str, Any, KeyPath]]:
        for axis, level in arm.items():
            place: KeyPath = ("matrix", axis, level.index)
            for path, value in {axis: level.name, **level.overrides}.items():
                yield from self.names.spread(path, value, place)
        environment = self.names.environment(self.base_environment, self.axes, arm)
        for index, rule in enumerate(self.rules):
            if self._holds(rule, environment, index):
                self.used[index] = True
                for key, value in self.study.rules[index].set.items():
                    yield from self.names.spread(key, value, ("rules", index, "set", key))

    def _check_free(self, path: str, settings: Settings, place: KeyPath) -> None:
        """A later rule wins over an earlier one, but a level says what the arm is: nothing else may change that."""
        taken = next((near for near in settings.places_near(path) if near[0] == "matrix"), None)
        if taken is not None:
            level = self.axes[str(taken[1])][int(taken[2])]
            raise self.study.refuse(place, f"the level {level.text} sets {path} too")

    def _holds(self, rule: Predicate, environment: Mapping[str, Any], index: int) -> bool:
        try:
            return rule(environment)
        except PredicateError as error:
            raise self.study.refuse(("rules", index, "when"), str(error)) from None

    def _check_rule_key(self, index: int, key: str) -> None:
        place = ("rules", index, "set", key)
        try:
            self.names.check_setting(key)
        except ValueError as error:
            raise self.study.refuse(place, str(error)) from None
        if self.names.axis_of(key, self.axes) is not None:
            raise self.study.refuse(
                place, f"{key!r} is an axis of the matrix: a rule cannot set it; exclude the arms instead"
            )

    def _check_base(self, component: str) -> None:
        """A knob of the base goes to the variants that have it, so one that none has must be told here."""
        base = self.study.model.get(component, {})
        if not isinstance(base, str | dict):
            raise self.study.refuse(("model", component), f"expected a name, or a mapping with a name, got {base!r}")
        for knob in base if isinstance(base, dict) else ():
            if knob not in ("name", "version"):
                try:
                    self.names.check_knob(component, knob)
                except ValueError as error:
                    raise self.study.refuse(("model", component, knob), str(error)) from None

    def _switch(self, settings: Settings, component: str, variant: Any) -> list[str]:
        """Keep of the base's knobs those that another variant has."""
        base = settings.get(f"model.{component}") or {}
        if is_same(base.get(NAME, variant), variant) and (NAME in base or not base):
            return []
        kept = {key: value for key, value in base.items() if self.names.has_knob(component, variant, key)}
        settings.tree["model"][component] = kept
        left_out = [key for key in base if key != NAME and key not in kept]
        return [f"{variant} has no knob {key!r}: model.{component}.{key} is left out" for key in left_out]

    def _parse_model(self, settings: Settings) -> ModelConfig:
        """Arms that differ in training alone share one config, which a plan of many arms needs to be quick."""
        key = repr(settings.tree["model"])
        if key not in self._models:
            self._models[key] = self._check_model(settings)
        return self._models[key]

    def _check_model(self, settings: Settings) -> ModelConfig:
        try:
            config = ModelConfig.parse(settings.tree["model"])
        except ConfigError as error:
            path = f"model.{error.path}" if error.path else "model"
            raise self._refuse(path, settings, f"{error.message}{self._hint(error)}") from None
        if config.vocab_size < self.corpus.vocab_size and self.study.data.source != "bin":
            raise self._refuse(
                "model.vocab_size",
                settings,
                f"{config.vocab_size} is less than the {self.corpus.vocab_size} tokens of the tokenizer "
                f"{self.study.data.tokenizer!r}",
            )
        if (largest := self.corpus.largest_token) is not None and config.vocab_size <= largest:
            raise self._refuse(
                "model.vocab_size",
                settings,
                f"the corpus holds the token {largest}, beyond a vocabulary of {config.vocab_size} "
                f"(legal: at least {largest + 1})",
            )
        try:
            check_length(self.corpus, config.context_length)
        except DataError as error:
            raise self._refuse("model.context_length", settings, str(error)) from None
        return config

    def _check_processes(self, train: TrainConfig, arm: Assignment) -> None:
        """Raises `GridError` where the processes of a run cannot share its batch evenly."""
        processes = self.study.resources.n_processes
        if processes == 1:
            return
        share, rest = divmod(train.batch_size, processes)
        at_once = min(train.sequences_at_once, share)
        if rest:
            text = f"{processes} processes cannot share a batch of {train.batch_size} sequences evenly"
        elif share % at_once:
            text = (
                f"each of {processes} processes has {share} sequences of a batch, which {at_once} at once do not divide"
            )
        elif train.cuda_graph:
            text = "train.cuda_graph is for runs of one process"
        else:
            return
        where = ("resources", "processes" if self.study.resources.processes else "gpus")
        raise self.study.refuse(where, f"{text} (the arm {arm_name(arm)})")

    def _hint(self, error: ConfigError) -> str:
        """A knob on an axis that only some variants have wants a condition rather than another spelling."""
        component, _, knob = error.path.partition(".")
        owners = self.names.owners(component, knob)
        axis = next((axis for axis in self.axes if self.names.path(axis).startswith(f"model.{error.path}")), None)
        if knob and owners and axis is not None and "unknown key" in error.message:
            condition = " or ".join(f"{component} == '{name}'" for name in owners)
            return f"; it exists for {', '.join(owners)}: write `conditions: {{{axis}: {condition}}}`"
        return f" (legal: {', '.join(map(str, error.legal))})" if error.legal else ""

    def _parse_train(self, settings: Settings, model: ModelConfig) -> TrainConfig:
        train, recipe = settings.tree["train"], model.recipe()
        steps = train["steps"]
        if train["weight_decay"] is None:
            train["weight_decay"] = recipe["weight_decay"]
        if train["warmup_steps"] is None and isinstance(steps, int):
            train["warmup_steps"] = min(MAX_WARMUP_STEPS, int(recipe["warmup_fraction"] * min(steps, LONGEST)))
        try:
            return TrainConfig.model_validate(train)
        except ValidationError as error:
            problem = error.errors()[0]
            path = ("train", *problem["loc"])
            raise self._refuse(".".join(map(str, path)), settings, explain(problem, path)) from None

    def _refuse(self, path: str, settings: Settings, message: str) -> GridError:
        """Point at what set the value; else at the last setting that the message names; else at the grid's own value.

        Where a whole section is wrong, at what was set in it.
        """
        own = next(settings.places_near(path), None) if "." in path else None
        said = message.partition(" (legal:")[0]
        named = [
            place
            for other, place in settings.places.items()
            if other.startswith(f"{path.split('.')[0]}.") and re.search(rf"\b{other.rpartition('.')[2]}\b", said)
        ]
        for place in (*([own] if own else ()), *reversed(named)):
            prefix = "" if str(place[-1]).startswith(path) else f"{path}: "
            return self._refuse_at(place, f"{prefix}{message}")
        return self.study.refuse(tuple(path.split(".")), message)

    def _refuse_at(self, place: KeyPath, message: str) -> GridError:
        if place[0] == "overlay":
            overlay, _ = self.overlays[int(place[1])]
            return GridError(f"{overlay.locate(str(place[2]))}: {message}")
        return self.study.refuse(place, message)


def _names_first(settings: Iterable[tuple[str, Any, KeyPath]]) -> list[tuple[str, Any, KeyPath]]:
    """A component's name comes before its knobs, which belong to the variant of that name."""
    return sorted(settings, key=lambda setting: not setting[0].endswith(f".{NAME}"))
