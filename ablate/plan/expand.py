"""Expand the matrix into arms: full factorial, one-at-a-time, leave-one-out, with conditional axes and exclusions.

`resolve` then builds the configuration of each arm's model and training from its levels.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.errors import GridError, suggest
from ablate.formatting import quote
from ablate.plan.axes import Assignment, Axes, Level, arm_name, display, holds
from ablate.study.declaration import Study
from ablate.study.settings import is_same
from ablate.study.yaml_source import KeyPath

FEWEST_LEVELS = 3  # of an axis whose largest level is predicted from the others
MAX_ARMS = 100_000

Key = tuple[tuple[str, int], ...]  # of an arm: the index of its level on each axis


@dataclass(frozen=True)
class Expansion:
    """The arms of a matrix in reading order, and remarks about the matrix."""

    axes: Mapping[str, tuple[Level, ...]]
    arms: tuple[Assignment, ...]
    baselines: tuple[int, ...]  # for each arm, the index of the arm it is compared with
    notices: tuple[str, ...]


def expand(study: Study, axes: Axes) -> Expansion:
    """Every arm that the study declares, each once, and the baseline of each.

    Raises `GridError` for an unknown axis or level, an expression that does not parse, an empty matrix, or an arm whose
    baseline is not in the plan.
    """
    return _Expander(study, axes).expand()


class _Expander:
    def __init__(self, study: Study, axes: Axes) -> None:
        self.study, self.space = study, axes
        self.axes, self.exists = axes.levels, axes.exists
        for axis in study.conditions:
            self._check_axis(axis, ("conditions", axis))
        self.exclusions = [
            (axes.compile(text, place), place)
            for index, text in enumerate(study.exclude)
            for place in [study.place("exclude", index)]
        ]
        for axis in study.compare_within:
            self._check_axis(axis, ("compare_within",))
        self.within = study.compare_within
        self._check_prediction()
        self.baseline = self._read_baseline()

    def expand(self) -> Expansion:
        unconditional = [len(levels) for axis, levels in self.axes.items() if axis not in self.space.conditions]
        if self.study.design == "full" and math.prod(unconditional) > MAX_ARMS:
            raise self._refuse_arms(math.prod(unconditional))
        found: dict[Key, Assignment] = {}
        for arm in self._designed():
            found.setdefault(self._key(arm), arm)
            if len(found) > MAX_ARMS:
                raise self._refuse_arms(MAX_ARMS + 1)
        excluded = [0] * len(self.exclusions)
        arms: dict[Key, Assignment] = {}
        for key, arm in found.items():
            environment = self.space.environment(arm) if self.exclusions else {}
            hits = [i for i, (rule, place) in enumerate(self.exclusions) if holds(rule, environment, place)]
            for index in hits:
                excluded[index] += 1
            if not hits:
                arms[key] = arm
        if not arms:
            raise self.study.refuse(("exclude",), f"no arm is left: all {len(found)} are excluded")
        notices = [
            f"the exclusion {quote(rule.text)} excludes nothing"
            for (rule, _), n_excluded in zip(self.exclusions, excluded, strict=True)
            if not n_excluded
        ]
        notices += [
            f"the axis {quote(axis)} exists in no arm: its condition {quote(rule.text)} never holds"
            for axis, rule in self.space.conditions.items()
            if not any(axis in arm for arm in found.values())
        ]
        return Expansion(self.axes, tuple(arms.values()), self._find_baselines(arms, found), tuple(notices))

    def _refuse_arms(self, at_least: int) -> GridError:
        message = f"there are at least {at_least:,} arms before exclusions (legal: at most {MAX_ARMS:,})"
        return self.study.refuse(("matrix",), message)

    def _check_axis(self, axis: str, place: KeyPath) -> None:
        if axis not in self.axes:
            raise self.study.refuse(place, f"{quote(axis)} is not an axis of the matrix{suggest(axis, self.axes)}")

    def _check_prediction(self) -> None:
        if (predict := self.study.predict) is None:
            return
        place = ("predict", "axis")
        self._check_axis(predict.axis, place)
        if predict.axis not in self.within:
            listed = ", ".join(self.within) or "none"
            raise self.study.refuse(
                place,
                f"{quote(predict.axis)} is not in compare_within, so its levels share a baseline (there: {listed})",
            )
        if (n := len(self.axes[predict.axis])) < FEWEST_LEVELS:
            raise self.study.refuse(
                place,
                f"{quote(predict.axis)} has {n} levels (legal: at least {FEWEST_LEVELS}, one of them held out)",
            )

    def _read_baseline(self) -> dict[str, Level]:
        if not self.study.baseline:
            return {axis: levels[0] for axis, levels in self.axes.items() if axis not in self.within}
        for axis in self.study.baseline:
            self._check_axis(axis, ("baseline", axis))
        return {axis: self._find_level(axis, value) for axis, value in self.study.baseline.items()}

    def _find_level(self, axis: str, value: Any) -> Level:
        place, levels = ("baseline", axis), self.axes[axis]
        if isinstance(value, dict):
            wanted = self.space.read_level(axis, 0, value, place)
            content = (wanted.name, wanted.overrides)
            matches = [level for level in levels if is_same((level.name, level.overrides), content)]
        else:
            matches = [level for level in levels if is_same(level.label, value)]
            matches = matches or [level for level in levels if is_same(level.name, value)]
        if len(matches) > 1:
            message = f"{quote(value)} is more than one level: give each level a `label`, and name the label here"
            raise self.study.refuse(place, message)
        if not matches:
            hint = suggest(value, [display(level.label) for level in levels])
            raise self.study.refuse(place, f"{quote(value)} is not a level of {quote(axis)}{hint}")
        return matches[0]

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

        for arm in extend({}, self.space.order):
            yield {axis: arm[axis] for axis in self.axes if axis in arm}  # in the declared order

    # Baselines

    @staticmethod
    def _key(arm: Assignment) -> Key:
        return tuple([(axis, level.index) for axis, level in arm.items()])

    def _find_baselines(self, arms: Mapping[Key, Assignment], found: Container[Key]) -> tuple[int, ...]:
        """The index of each arm's baseline. `found` are the arms before exclusions."""
        index = {key: position for position, key in enumerate(arms)}
        result = []
        for arm in arms.values():
            wanted = self._baseline_of(arm)
            key = self._key(wanted)
            if key not in index:
                reason = "is excluded" if key in found else f"is not in the design {self.study.design}"
                raise self.study.refuse(
                    ("baseline",), f"the baseline of the arm {arm_name(arm)}, which is {arm_name(wanted)}, {reason}"
                )
            result.append(index[key])
        return tuple(result)

    def _baseline_of(self, arm: Assignment) -> Assignment:
        wanted: dict[str, Level] = {}
        for axis in self.space.order:
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
