"""The names of settings in a grid with a program: any dotted name, because only the program knows what it reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ablate.errors import suggest
from ablate.formatting import quote
from ablate.plan.setting_names import Names
from ablate.study.declaration import Declaration
from ablate.study.settings import flatten

# What ablate itself provides to a program. A setting cannot have such a name.
PROVIDED = ("seed", "run_dir", "run_id", "study", "grid_dir", "python")
_NAME = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", re.ASCII)


class ProgramNames(Names):
    """The settings of a program have no variants, no short names and no defaults beyond those in the file."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__({}, {})
        self._settings = dict(flatten(settings))

    def path(self, name: str) -> str:
        return name

    def check_axis(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{quote(name)} is not a valid name of a setting: use letters, digits, _ and -, joined by dots"
            )
        if name in PROVIDED:
            raise ValueError(f"{quote(name)} is set by ablate for every run, so it cannot be an axis")

    def check_name(self, name: str, axes: Mapping[str, Any]) -> None:
        if name not in axes and name not in self._settings:
            raise ValueError(f"unknown name {quote(name)}{suggest(name, (*axes, *self._settings))}")

    def check_literal(self, name: str, value: str, levels: Sequence[Any]) -> None:
        if levels and all(type(level) in (int, float) for level in levels):
            raise ValueError(f"{name} is a number and never equals the text {quote(value)}: remove the quotes")

    def override_path(self, axis: str, variant: Any, key: str) -> str:  # noqa: ARG002 - settings have no variants
        self.check_axis(key)
        return key

    def spread(self, key: str, value: Any) -> Iterator[tuple[str, Any]]:
        yield key, value

    def axis_of(self, name: str, axes: Mapping[str, Any]) -> str | None:
        return name if name in axes else None

    def base_environment(self, declared: Declaration) -> dict[str, Any]:  # noqa: ARG002 - they are known already
        return dict(self._settings)

    def environment(
        self, base: Mapping[str, Any], axes: Mapping[str, Any], arm: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        values = dict(base)
        for axis in axes:
            level = arm.get(axis)
            values |= level.overrides if level is not None else {}
            values[axis] = level.name if level is not None else None
        return values
