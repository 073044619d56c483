"""The peak until the end."""

from __future__ import annotations

from typing import ClassVar

from ablate.recipes.schedules.base import ScheduleVariant


class Constant(ScheduleVariant):
    """No decay."""

    name: ClassVar[str] = "constant"
    falls: ClassVar[bool] = False

    def height(self, progress: float) -> float:  # noqa: ARG002
        return 1.0
