"""The matrix to arms: full factorial, one-at-a-time, leave-one-out, with conditional axes and exclusions.

An arm here is an `Assignment`: the level that it takes on each axis that exists for it. What that means for the model
and the training is `resolve`'s matter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ablate.errors import GridError, suggest
from ablate.formatting import quote
from ablate.plan.setting_names import Names
from ablate.study.predicates import Environment, Predicate, PredicateError
from ablate.study.schema import Study
from ablate.study.settings import is_same
from ablate.study.yaml_source import KeyPath

Assignment = Mapping[str, "Level"]

MAX_ARMS = 100_000
MAX_AXES = 100
RECIPE = frozenset({"train.weight_decay", "train.warmup_steps"})


@dataclass(frozen=True, eq=False)
class Level:
    """One value of an axis. `overrides` are further dotted paths that it sets; `label` is how people see it."""

    axis: str
    index: int
    name: Any
    label: Any
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def text(self) -> str:
        return f"{self.axis}={display(self.label)}"


@dataclass(frozen=True)
class Expansion:
    """What the matrix came to: the arms, in the order in which a reader would list them, and remarks about it."""

    axes: Mapping[str, tuple[Level, ...]]
    arms: tuple[Assignment, ...]
    baselines: tuple[int, ...]  # for each arm, the index of the arm it is compared with
    notices: tuple[str, ...]


def display(value: Any) -> str:
    """A level as text: a word as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _is_label(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip()) and value.isprintable()
    return isinstance(value, int | float) and math.isfinite(value)


def arm_name(arm: Assignment) -> str:
    """`attention=differential,normalization=ngpt`."""
    return ",".join([level.text for level in arm.values()])


def expand(study: Study, names: Names) -> Expansion:
    """Every arm that the study declares, each once, and the baseline of each.

    Raises `GridError` for an unknown axis, level or name, an expression that does not parse, a cycle of conditions,
    an empty matrix, or an arm whose baseline is not in the plan.
    """
    return Expander(study, names).expand()


class Expander:
    """The axes of a study, read and checked: their levels, and where each exists.

    Raises `GridError` for an unknown axis or level, an expression that does not parse, or a cycle of conditions.
    """

    def __init__(self, study: Study, names: Names) -> None:
        self.study, self.names = study, names
        self._check_axes()
        self.axes = {axis: self._read_levels(axis) for axis in study.matrix}
        self.conditions = {
            axis: self.compile(text, ("conditions", axis))
            for axis, text in study.conditions.items()
            if self._is_axis(axis)
        }
        self.exclusions = [self.compile(text, ("exclude", index)) for index, text in enumerate(study.exclude)]
        self.order = self._order_axes()
        self.within = [axis for axis in study.compare_within if self._is_axis(axis, ("compare_within",))]
        self.baseline = self._read_baseline()
        self.base_environment = names.base_environment(study)

    def expand(self) -> Expansion:
        unconditional = [len(levels) for axis, levels in self.axes.items() if axis not in self.conditions]
        if self.study.design == "full" and math.prod(unconditional) > MAX_ARMS:
            raise self._refuse_arms(math.prod(unconditional))
        arms_by_key: dict[tuple[tuple[str, int], ...], Assignment] = {}
        for arm in self._designed():
            arms_by_key.setdefault(self._key(arm), arm)
            if len(arms_by_key) > MAX_ARMS:
                raise self._refuse_arms(MAX_ARMS + 1)
        found = list(arms_by_key.values())
        excluded = [0] * len(self.exclusions)
        arms = []
        for arm in found:
            environment = self.environment(arm)
            hits = [
                index for index, rule in enumerate(self.exclusions) if self.holds(rule, environment, ("exclude", index))
            ]
            for index in hits:
                excluded[index] += 1
            if not hits:
                arms.append(arm)
        if not arms:
            raise self.study.refuse(("exclude",), f"no arm is left: all {len(found)} are excluded")
        notices = [
            f"the exclusion {quote(rule.text)} excludes nothing"
            for rule, count in zip(self.exclusions, excluded, strict=True)
            if not count
        ]
        notices += [
            f"the axis {quote(axis)} exists in no arm: its condition {quote(rule.text)} never holds"
            for axis, rule in self.conditions.items()
            if not any(axis in arm for arm in found)
        ]
        return Expansion(self.axes, tuple(arms), self._find_baselines(arms, found), tuple(notices))

    def _refuse_arms(self, at_least: int) -> GridError:
        message = f"there are at least {at_least:,} arms, exclusions aside (legal: at most {MAX_ARMS:,})"
        return self.study.refuse(("matrix",), message)

    # Reading what was declared

    def _is_axis(self, axis: str, place: KeyPath = ("conditions",)) -> bool:
        if axis in self.axes:
            return True
        where = place if place == ("compare_within",) else (*place, axis)
        raise self.study.refuse(where, f"{quote(axis)} is no axis of the matrix{suggest(axis, self.axes)}")

    def _check_axes(self) -> None:
        if len(self.study.matrix) > MAX_AXES:
            message = f"{len(self.study.matrix):,} axes (legal: at most {MAX_AXES})"
            raise self.study.refuse(("matrix",), message)
        paths: dict[str, str] = {}
        for axis in self.study.matrix:
            try:
                self.names.check_axis(axis)
            except ValueError as error:
                raise self.study.refuse(("matrix", axis), str(error)) from None
            twin = paths.setdefault(self.names.path(axis), axis)
            if twin != axis:
                raise self.study.refuse(("matrix", axis), f"{quote(axis)} and {quote(twin)} are the same axis")

    def _read_levels(self, axis: str) -> tuple[Level, ...]:
        levels = [self._read_level(axis, index, value) for index, value in enumerate(self.study.matrix[axis])]
        labels = [display(level.label) for level in levels]
        seen: set[str] = set()
        for index, label in enumerate(labels):
            if label in seen:
                raise self.study.refuse(("matrix", axis, index), f"the level {quote(label)} stands twice")
            seen.add(label)
        return tuple(levels)

    def _read_level(self, axis: str, index: int, value: Any) -> Level:
        place = ("matrix", axis, index)
        if not isinstance(value, dict):
            return Level(axis, index, value, value)
        extra = dict(value)
        keys = [key for key in ("name", "value") if key in extra]
        if len(keys) != 1:
            raise self.study.refuse(
                place, "a level that is a mapping has a `name` (the value on its axis), and what else it sets"
            )
        name, label = extra.pop(keys[0]), extra.pop("label", None)
        try:
            overrides = {self.names.override_path(axis, name, key): setting for key, setting in extra.items()}
        except ValueError as error:
            raise self.study.refuse(place, str(error)) from None
        if label is not None and not _is_label(label):
            raise self.study.refuse((*place, "label"), f"a label is a line of text or a number, got {quote(label)}")
        for path in overrides:
            other = self.names.axis_of(path, self.study.matrix)
            if other is not None:
                raise self.study.refuse(
                    place, f"{quote(path)} is set by the axis {quote(other)}: a level cannot set it too"
                )
        if label is None and extra:
            label = f"{display(name)}({', '.join(f'{key}={display(setting)}' for key, setting in extra.items())})"
        return Level(axis, index, name, name if label is None else label, overrides)

    def _read_baseline(self) -> dict[str, Level]:
        if not self.study.baseline:
            return {axis: levels[0] for axis, levels in self.axes.items() if axis not in self.within}
        return {
            axis: self._find_level(axis, value)
            for axis, value in self.study.baseline.items()
            if self._is_axis(axis, ("baseline",))
        }

    def _find_level(self, axis: str, value: Any) -> Level:
        place = ("baseline", axis)
        if isinstance(value, dict):
            wanted = self._read_level(axis, 0, value)
            matches = [
                level
                for level in self.axes[axis]
                if is_same((level.name, level.overrides), (wanted.name, wanted.overrides))
            ]
        else:
            matches = [level for level in self.axes[axis] if is_same(level.label, value)]
            matches = matches or [level for level in self.axes[axis] if is_same(level.name, value)]
        if len(matches) > 1:
            raise self.study.refuse(
                place, f"{quote(value)} is more than one level: give the levels a `label` and name that"
            )
        if not matches:
            labels = [display(level.label) for level in self.axes[axis]]
            raise self.study.refuse(place, f"{quote(value)} is no level of {quote(axis)}{suggest(value, labels)}")
        return matches[0]

    def _order_axes(self) -> list[str]:
        """The declared order, but an axis whose condition reads another comes after it."""
        order: list[str] = []

        def visit(axis: str, path: tuple[str, ...]) -> None:
            if axis in path:
                raise self.study.refuse(
                    ("conditions", axis), f"the conditions form a cycle: {' -> '.join((*path, axis))}"
                )
            if axis in order:
                return
            for name in self.conditions[axis].names if axis in self.conditions else ():
                other = self.names.axis_of(name, self.axes)
                if other is not None:
                    visit(other, (*path, axis))
            order.append(axis)

        for axis in self.axes:
            visit(axis, ())
        return order

    # Expressions

    def compile(self, text: str, place: KeyPath) -> Predicate:
        return compile_predicate(self.study, self.names, self.axes, text, place)

    def environment(self, arm: Assignment) -> Environment:
        return self.names.environment(self.base_environment, self.axes, arm)

    def exists(self, axis: str, arm: Assignment) -> bool:
        """Whether the axis exists for an arm of which the levels that its condition reads are known."""
        condition = self.conditions.get(axis)
        return condition is None or self.holds(condition, self.environment(arm), ("conditions", axis))

    def holds(self, predicate: Predicate, environment: Environment, place: KeyPath) -> bool:
        try:
            return predicate(environment)
        except PredicateError as error:
            raise self.study.refuse(place, str(error)) from None

    # Designs

    def _designed(self) -> Iterator[Assignment]:
        if self.study.design == "full":
            yield from self._cross({})
            return
        named = {axis: level for axis, level in self.baseline.items() if axis not in self.within}
        baselines = list(self._cross(named))
        yield from baselines
        # An axis that does not exist for the baseline has no level there from which to differ: it is crossed.
        named = {axis: level for axis, level in named.items() if any(axis in arm for arm in baselines)}
        if self.study.design == "one_at_a_time":
            for axis, level in named.items():
                for other in self.axes[axis]:
                    if other is not level:
                        yield from self._cross({**named, axis: other})
            return
        everything = {axis: self._other_level(axis, level) for axis, level in named.items()}
        yield from self._cross(everything)
        for axis, level in named.items():
            yield from self._cross({**everything, axis: level})

    def _other_level(self, axis: str, level: Level) -> Level:
        others = [other for other in self.axes[axis] if other is not level]
        if len(others) != 1:
            raise self.study.refuse(
                ("matrix", axis),
                f"design leave_one_out puts each axis of the baseline back in turn, so {quote(axis)} needs exactly two "
                f"levels, the baseline's and the one to leave out; it has {len(self.axes[axis])}",
            )
        return others[0]

    def _cross(self, fixed: Assignment) -> Iterator[Assignment]:
        """Every arm with the levels of `fixed`, over all levels of the other axes that exist for it."""

        def extend(arm: dict[str, Level], rest: Sequence[str]) -> Iterator[dict[str, Level]]:
            if not rest:
                yield arm
                return
            axis, *later = rest
            if not self.exists(axis, arm):
                yield from extend(arm, later)
                return
            for level in [fixed[axis]] if axis in fixed else self.axes[axis]:
                yield from extend({**arm, axis: level}, later)

        for arm in extend({}, self.order):
            yield {axis: arm[axis] for axis in self.axes if axis in arm}  # in the declared order

    # Baselines

    @staticmethod
    def _key(arm: Assignment) -> tuple[tuple[str, int], ...]:
        return tuple((axis, level.index) for axis, level in arm.items())

    def _find_baselines(self, arms: Sequence[Assignment], found: Sequence[Assignment]) -> tuple[int, ...]:
        index = {self._key(arm): position for position, arm in enumerate(arms)}
        excluded = {self._key(arm) for arm in found}
        result = []
        for arm in arms:
            wanted = self._baseline_of(arm)
            key = self._key(wanted)
            if key not in index:
                reason = "is excluded" if key in excluded else f"is not in the design {self.study.design}"
                raise self.study.refuse(
                    ("baseline",), f"the baseline of the arm {arm_name(arm)}, which is {arm_name(wanted)}, {reason}"
                )
            result.append(index[key])
        return tuple(result)

    def _baseline_of(self, arm: Assignment) -> Assignment:
        wanted: dict[str, Level] = {}
        for axis in self.order:
            if not self.exists(axis, wanted):
                continue
            level = self.baseline.get(axis) if axis not in self.within else None
            level = level or arm.get(axis)
            if level is None and axis in self.within:
                raise self.study.refuse(
                    ("compare_within",),
                    f"the axis {quote(axis)} exists for the baseline but not for the arm {arm_name(arm)}",
                )
            if level is None:
                raise self.study.refuse(
                    ("baseline",),
                    f"the axis {quote(axis)} exists for the baseline but not for the arm {arm_name(arm)}: "
                    "name its level in `baseline`",
                )
            wanted[axis] = level
        return {axis: wanted[axis] for axis in self.axes if axis in wanted}


def compile_predicate(
    study: Study, names: Names, axes: Mapping[str, Sequence[Level]], text: str, place: KeyPath
) -> Predicate:
    """The expression, with every name that it reads known and every variant that it names existing.

    Raises `GridError` otherwise, naming the place.
    """
    try:
        return read_predicate(study, names, axes, text)
    except ValueError as error:
        raise study.refuse(place, str(error)) from None


def read_predicate(study: Study, names: Names, axes: Mapping[str, Sequence[Level]], text: str) -> Predicate:
    """The same for an expression that stands in another file. Raises `ValueError` without a place."""
    predicate = Predicate(text)
    for name in predicate.names:
        names.check_name(name, axes)
        if names.axis_of(name, axes) is None and name in RECIPE and getattr(study.train, name[6:]) is None:
            raise ValueError(f"{name} differs from arm to arm as its normalization brings it: set it under `train`")
    for name, value in predicate.literals:
        axis = names.axis_of(name, axes)
        names.check_literal(name, value, [level.name for level in axes[axis]] if axis is not None else [])
    return predicate
