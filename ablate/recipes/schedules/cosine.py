"""Half a cosine wave from the peak to the minimum."""

from __future__ import annotations

import math
from typing import ClassVar

from ablate.recipes.schedules.base import ScheduleVariant


class Cosine(ScheduleVariant):
    """Cosine decay (arXiv 1608.03983, without restarts)."""

    name: ClassVar[str] = "cosine"

    def height(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))
