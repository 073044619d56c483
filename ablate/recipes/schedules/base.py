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

    def rate(self, step: int, steps: int, warmup_steps: int, peak: float, minimum: float) -> float:
        """The learning rate of optimizer step `step`, from 1 to `steps`: a linear warm-up, then the shape."""
        if step <= warmup_steps:
            return peak * step / (warmup_steps + 1)
        height = self.height((step - 1 - warmup_steps) / (steps - warmup_steps))
        return minimum + (peak - minimum) * height

    def check(self, steps: int, warmup_steps: int) -> None:
        """Raises `ValueError` where it cannot be used for a run of this length."""

    def remark(self, steps: int, warmup_steps: int) -> str:  # noqa: ARG002 - no knobs by default
        """A sentence about knobs that make no sense for a run of this length, or nothing."""
        return ""
