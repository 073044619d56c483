"""The short names of arms, the same in reports, in a terminal and in MLflow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ablate.tracking.study_record import ArmRecord
from ablate.tracking.values import Value, is_number

_OWN = re.compile(r"(?P<file>[^:()]+\.py:)(?P<name>[A-Za-z_]\w*)(?P<settings>\(.+\))?")


def label_arms(arms: Sequence[ArmRecord]) -> dict[str, str]:
    """Name arms by their levels, such as `differential / ngpt`, or by their full name if two would share a label.

    What all levels of an axis share is left out: `bias=true` for `mine.py:Attention(bias=true)`, see `find_shared`.
    Control characters, which a terminal would obey, become spaces.
    """
    shared = find_shared(arms)
    labels = {arm.arm: label_levels(arm.axes, shared) for arm in arms}
    times = Counter(labels.values())
    return {arm: label if label and times[label] == 1 else _clean(arm) for arm, label in labels.items()}


def label_levels(levels: Mapping[str, Value], shared: Mapping[str, str], separator: str = " / ") -> str:
    """The names of the levels of several axes, such as `differential / ngpt`. `shared` is that of `find_shared`."""
    return _clean(separator.join(label_level(*item, shared) for item in levels.items()))


def _clean(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def label_level(axis: str, level: Value, shared: Mapping[str, str] | None = None) -> str:
    """The name of a variant without the start in `shared`; a number, or the value of a setting, with its axis."""
    if not isinstance(level, str) or "." in axis:
        return f"{axis.rpartition('.')[2]}={level}"
    start = (shared or {}).get(axis, "")
    return level.removeprefix(start).removesuffix(")") if start.endswith("(") else level.removeprefix(start)


class LeveledArm(Protocol):
    """What `size_levels` reads of an arm."""

    @property
    def axes(self) -> Mapping[str, Value]: ...

    @property
    def n_params(self) -> int | None: ...


def size_levels(arms: Sequence[LeveledArm], axis: str) -> Sequence[Any]:
    """The sizes of the arms' levels on an axis: the levels if all are numbers, or else the arms' parameters."""
    levels = [arm.axes[axis] for arm in arms]
    return levels if all(is_number(level) for level in levels) else [arm.n_params for arm in arms]


def largest_level(arms: Iterable[LeveledArm], axis: str) -> Value | None:
    """The largest level of an axis by `size_levels`; None if no arm has the axis."""
    members = [arm for arm in arms if axis in arm.axes]
    pairs = zip(size_levels(members, axis), members, strict=True)
    _, largest = max(pairs, key=lambda pair: pair[0] or 0, default=(0, None))
    return None if largest is None else largest.axes[axis]


def find_shared(arms: Sequence[ArmRecord]) -> dict[str, str]:
    """What all levels of an axis begin with, if all are variants in the same file of the user.

    That is `mine.py:`, or `mine.py:Attention(` if only the settings of one class differ. Other axes are left out.
    """
    shared = {}
    for axis in dict.fromkeys(axis for arm in arms for axis in arm.axes):
        levels = [arm.axes[axis] for arm in arms if axis in arm.axes]
        found = [_OWN.fullmatch(level) if isinstance(level, str) else None for level in levels]
        own = [match for match in found if match]
        if len(own) < len(levels) or len({match[0] for match in own}) < 2 or len({match["file"] for match in own}) > 1:
            continue
        is_one = len({match["name"] for match in own}) == 1 and all(match["settings"] for match in own)
        shared[axis] = f"{own[0]['file']}{own[0]['name']}(" if is_one else own[0]["file"]
    return shared
