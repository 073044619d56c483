"""The contract of a schedule."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from ablate.recipes.variant import Variant


class ScheduleVariant(Variant):
    """The shape of the learning rate after the warm-up."""

    falls: ClassVar[bool] = True  # whether the rate ever leaves the peak; otherwise min_learning_rate is not read

    @abstractmethod
    def height(self, progress: float) -> float:
        """Map the progress after the warm-up, from 0 to below 1, to a height from 0 (the minimum) to 1 (the peak)."""

    def remark(self, steps: int, warmup_steps: int) -> str:  # noqa: ARG002 - no knobs by default
        """A sentence about knobs that make no sense for a run of this length, or nothing."""
        return ""
