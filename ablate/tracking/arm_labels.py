"""The short names of arms, the same in reports, in a terminal and in MLflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ablate.tracking.study_record import ArmRecord
from ablate.tracking.values import Value


def label_arms(arms: Sequence[ArmRecord]) -> dict[str, str]:
    """Name arms by their levels, such as `differential / ngpt`, or by their full name if two would share a label.

    Control characters, which a terminal would obey, become spaces.
    """
    labels = {arm.arm: " / ".join(label_level(axis, level) for axis, level in arm.axes.items()) for arm in arms}
    times = Counter(labels.values())
    chosen = {arm: label if label and times[label] == 1 else arm for arm, label in labels.items()}
    return {arm: "".join(c if c.isprintable() else " " for c in label) for arm, label in chosen.items()}


def label_level(axis: str, level: Value) -> str:
    """The name of a variant by itself; a number, or the value of a setting, with its axis."""
    return level if isinstance(level, str) and "." not in axis else f"{axis.rpartition('.')[2]}={level}"
