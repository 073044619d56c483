"""A straight line from the peak to the minimum."""

from __future__ import annotations

from typing import ClassVar

from ablate.recipes.schedules.base import ScheduleVariant


class Linear(ScheduleVariant):
    """Linear decay."""

    name: ClassVar[str] = "linear"

    def height(self, progress: float) -> float:
        return 1 - progress
