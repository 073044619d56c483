"""A fast early decay that slows down."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from ablate.recipes.schedules.base import ScheduleVariant


class Logarithmic(ScheduleVariant):
    """1 - ln(1 + r / rho) / ln(1 + 1 / rho) at progress r (arXiv 2608.01284). A large rho makes it linear."""

    name: ClassVar[str] = "logarithmic"

    logarithmic_rho: float = Field(
        0.1, ge=1e-9, le=1e9, description="logarithmic: progress by which the early fast decay slows"
    )

    def height(self, progress: float) -> float:
        return 1 - math.log1p(progress / self.logarithmic_rho) / math.log1p(1 / self.logarithmic_rho)
