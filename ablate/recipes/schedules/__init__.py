"""The schedules of the learning rate: one line per variant."""

from __future__ import annotations

from ablate.recipes.schedules.base import ScheduleVariant

SCHEDULES = ScheduleVariant.load_table(
    __name__,
    {
        "cosine": "cosine:Cosine",
        "linear": "linear:Linear",
        "constant": "constant:Constant",
        "wsd": "wsd:WSD",
        "logarithmic": "logarithmic:Logarithmic",
    },
)
