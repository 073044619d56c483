"""Warm-up, stable, decay: the peak, then a straight line to the minimum over the last steps."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ablate.recipes.schedules.base import ScheduleVariant


class WSD(ScheduleVariant):
    """Warm-up, stable, decay (arXiv 2404.06395), with a linear decay."""

    name: ClassVar[str] = "wsd"
    summary: ClassVar[str] = "constant, then linear over the last decay_fraction"

    decay_fraction: float = Field(0.2, gt=0, le=1, description="wsd: share of the steps after warm-up that decay")

    def height(self, progress: float) -> float:
        return min(1.0, (1 - progress) / self.decay_fraction)

    def remark(self, steps: int, warmup_steps: int) -> str:
        if self.decay_fraction * (steps - warmup_steps) > 1:
            return ""
        return f"train.decay_fraction {self.decay_fraction:g} is less than one step of {steps}: the rate never falls"
