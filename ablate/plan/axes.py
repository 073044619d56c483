"""The axes of a declaration: their levels, and the conditions under which they exist."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ablate.formatting import quote
from ablate.plan.setting_names import Names
from ablate.study.axis import Axis
from ablate.study.declaration import Declaration
from ablate.study.predicates import Environment, Predicate, PredicateError
from ablate.study.settings import value_key
from ablate.study.yaml_source import KeyPath, Place

MAX_AXES = 100
RECIPE = frozenset({"train.weight_decay", "train.warmup_steps"})


@dataclass(frozen=True, eq=False)
class Level:
    """One value of an axis, at `place` in the file. `overrides` are further dotted paths that it sets; `label` is its
    name on every page."""

    axis: str
    index: int
    name: Any
    label: Any
    place: KeyPath
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def text(self) -> str:
        return f"{self.axis}={display(self.label)}"


Assignment = Mapping[str, Level]
"""An arm before it is resolved: the level that it takes on each axis that exists for it."""


def display(value: Any) -> str:
    """A level as text: a word as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def arm_name(arm: Assignment) -> str:
    """`attention=differential,normalization=ngpt`."""
    return ",".join([level.text for level in arm.values()])


class Axes:
    """The axes of a declaration, read and checked.

    Raises `GridError` for an unknown axis or level, an expression that does not parse, or a cycle of conditions.
    """

    def __init__(self, declared: Declaration, names: Names, axes: Sequence[Axis]) -> None:
        self.declared, self.names = declared, names
        self._axes = {axis.name: axis for axis in axes}
        self._check()
        self.levels = {axis.name: self._read_levels(axis) for axis in axes}
        self.conditions = {
            axis.name: self.compile(axis.when, declared.place(*axis.when_place))
            for axis in axes
            if axis.when is not None
        }
        self.order = self._order()
        self._base_environment = names.base_environment(declared)

    def _check(self) -> None:
        if len(self._axes) > MAX_AXES:
            first = next(iter(self._axes.values()))
            raise self.declared.refuse(first.place[:-1], f"{len(self._axes):,} axes (legal: at most {MAX_AXES})")
        paths: dict[str, str] = {}
        for name, axis in self._axes.items():
            try:
                self.names.check_axis(name)
            except ValueError as error:
                raise self.declared.refuse(axis.place, str(error)) from None
            twin = paths.setdefault(self.names.path(name), name)
            if twin != name:
                raise self.declared.refuse(axis.place, f"{quote(name)} and {quote(twin)} are the same axis")

    def _read_levels(self, axis: Axis) -> tuple[Level, ...]:
        levels = [
            self.read_level(axis.name, index, value, axis.place_of(index)) for index, value in enumerate(axis.values)
        ]
        seen: dict[Hashable, Level] = {}
        for level in levels:
            for key in self._keys(level):
                twin = seen.setdefault(key, level)
                if twin is not level:
                    same = "" if twin.text == level.text else f": it is {display(twin.label)}"
                    said = f"the level {quote(display(level.label))} is in the list twice{same}"
                    raise self.declared.refuse(level.place, said)
        return tuple(levels)

    def _keys(self, level: Level) -> Iterator[Hashable]:
        """Yield what a list may hold once: a name and, with a program, a value, because 1 and 1.0 would train alike.

        Levels of a model that train alike are merged when the arms are resolved.
        """
        yield level.text
        if self.declared.program is not None:
            yield value_key([level.name, level.overrides])

    def read_level(self, axis: str, index: int, value: Any, place: KeyPath) -> Level:
        """Read a level from a value of the file: a plain value, or a mapping that sets more than its axis."""
        if not isinstance(value, dict):
            return Level(axis, index, value, value, place)
        extra = dict(value)
        keys = [key for key in ("name", "value") if key in extra]
        if len(keys) != 1:
            raise self.declared.refuse(
                place, "a level that is a mapping needs a `name` (its value on the axis) beside the settings"
            )
        name, label = extra.pop(keys[0]), extra.pop("label", None)
        try:
            overrides = {self.names.override_path(axis, name, key): setting for key, setting in extra.items()}
        except ValueError as error:
            raise self.declared.refuse(place, str(error)) from None
        if label is not None and not _is_label(label):
            message = f"a label is one line of text or a number, got {quote(label)}"
            raise self.declared.refuse((*place, "label"), message)
        for path in overrides:
            other = self.names.axis_of(path, self._axes)
            if other is not None:
                *above, _ = self._axes[other].place  # `space` of a search, or `tune.space`
                is_varied = above[-1:] == ["space"]
                what = f"varied by {'.'.join(map(str, above))}" if is_varied else f"set by the axis {quote(other)}"
                message = f"{quote(path)} is {what}: a level cannot set it too"
                raise self.declared.refuse(place, message)
        if label is None and extra:
            label = f"{display(name)}({', '.join(f'{key}={display(setting)}' for key, setting in extra.items())})"
        return Level(axis, index, name, name if label is None else label, place, overrides)

    def _order(self) -> list[str]:
        """The declared order, except that an axis follows those that its condition reads."""
        order: list[str] = []

        def visit(axis: str, path: tuple[str, ...]) -> None:
            if axis in path:
                message = f"the conditions form a cycle: {' -> '.join((*path, axis))}"
                raise self.declared.refuse(self._axes[axis].when_place, message)
            if axis in order:
                return
            for name in self.conditions[axis].names if axis in self.conditions else ():
                other = self.names.axis_of(name, self._axes)
                if other is not None:
                    visit(other, (*path, axis))
            order.append(axis)

        for axis in self._axes:
            visit(axis, ())
        return order

    # Expressions

    def compile(self, text: str, place: Place) -> Predicate:
        """Read an expression, check that every name in it is known, and every variant that it compares with.

        Raises `GridError` otherwise.
        """
        try:
            predicate = Predicate(text)
            for name in predicate.names:
                self.names.check_name(name, self._axes)
                is_open = name in RECIPE and getattr(self.declared.train, name.removeprefix("train.")) is None
                if is_open and self.names.axis_of(name, self._axes) is None:
                    raise ValueError(f"{name} depends on the normalization of the arm: set it under `train`")
            for name, value in predicate.literals:
                axis = self.names.axis_of(name, self._axes)
                self.names.check_literal(name, value, [level.name for level in self.levels[axis]] if axis else [])
        except ValueError as error:
            raise place.refuse(str(error)) from None
        return predicate

    def environment(self, arm: Assignment, base: Mapping[str, Any] | None = None) -> Environment:
        """The values that an expression reads from an arm. `base` is used in place of the declaration's own values."""
        return self.names.environment(self._base_environment if base is None else base, self._axes, arm)

    def exists(self, axis: str, arm: Assignment) -> bool:
        """Tell if the axis exists for an arm, which must have the levels that the axis's condition reads."""
        condition = self.conditions.get(axis)
        place = self._axes[axis].when_place
        return condition is None or holds(condition, self.environment(arm), self.declared.place(*place))


def holds(predicate: Predicate, environment: Environment, place: Place) -> bool:
    """Evaluate the expression at `place`. Raises `GridError` if it compares values that cannot be compared."""
    try:
        return predicate(environment)
    except PredicateError as error:
        raise place.refuse(str(error)) from None


def _is_label(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip()) and value.isprintable()
    return isinstance(value, int | float) and math.isfinite(value)
