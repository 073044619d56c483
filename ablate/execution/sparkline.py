"""Curves and progress in a few characters of a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVELS = "▁▂▃▄▅▆▇█"


def draw_sparkline(values: Sequence[float], width: int) -> str:
    """Draw at most `width` of the values, evenly spaced from the first to the last, from their lowest to their highest.

    Values that are not finite are shown as "!". Fewer than two values, or values that are all the same, give a flat
    line.
    """
    n, last = min(len(values), width), len(values) - 1
    shown = [values[round(last * place / (n - 1)) if n > 1 else last] for place in range(n)]
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    per_level = (high - low) / (len(LEVELS) - 1)
    return "".join(
        "!" if not math.isfinite(value) else LEVELS[round((value - low) / per_level) if per_level else 0]
        for value in shown
    )


def draw_bar(share: float, width: int) -> str:
    """Draw a bar of `width` characters that is filled up to `share`, from 0 to 1."""
    filled = int(min(max(share, 0.0), 1.0) * width)
    return "━" * filled + "╌" * (width - filled)
