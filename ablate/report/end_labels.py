"""The corners of panels, and the labels at the ends of their lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ablate.report.chart_parts import HEIGHT, identify
from ablate.report.encoding import OTHER
from ablate.report.notation import elide
from ablate.report.report import Report
from ablate.report.thinned_curves import DrawnCurve

LINE_HEIGHT = 13
"""Pixels between two labels."""


def frame_panels(
    lines: Sequence[DrawnCurve], axis: str, report: Report, *, is_shared: bool, zero: float | None = None
) -> list[dict[str, Any]]:
    """The corners of each panel, and a label per complete line at its right edge, moved so that none overlap.

    The vertical range is that of all panels if `is_shared`, and contains `zero` if it is given.
    """
    panels: dict[str, list[DrawnCurve]] = {}
    for line in lines:
        panels.setdefault(report.looks[line.arm].panel, []).append(line)
    values = {name: np.concatenate([line.values.ravel() for line in mine]) for name, mine in panels.items()}
    every = np.concatenate(list(values.values())) if values else np.empty(0)
    rows: list[dict[str, Any]] = []
    for name, members in panels.items():
        y = pad_range(np.append(every if is_shared else values[name], [] if zero is None else zero))
        costs = np.concatenate([line.costs[axis] for line in members])
        costs = costs[np.isfinite(costs)]
        if not costs.size:
            continue
        x = (float(costs.min()) if zero is None else 0.0, float(costs.max()))
        corners = {"kind": "corner", "panel": name}
        rows += [corners | {axis: x[end], "y": y[end]} for end in (0, 1)]
        labeled = [line for line in members if not line.state and report.looks[line.arm].hue != OTHER]
        labeled.sort(key=lambda line: float(line.mean[-1]))
        wished = [float(line.mean[-1]) for line in labeled]
        places = spread_out(wished, LINE_HEIGHT * (y[1] - y[0]) / HEIGHT, y)
        for line, place in zip(labeled, places, strict=True):
            look = report.looks[line.arm]
            label = {"kind": "label", axis: x[1], "y": place, "text": elide(look.short, 30)}
            rows.append(identify(look, report.labels[line.arm], line.arm) | label)
    return rows


def spread_out(places: Sequence[float], gap: float, bounds: tuple[float, float]) -> list[float]:
    """Ascending places moved as little as needed to be `gap` apart and, if there is room, inside the bounds."""
    blocks: list[list[float]] = []  # [sum of the members' wished places of the first, number of members]
    for place in places:
        blocks.append([place, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] + gap * blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            wished, n = blocks.pop()
            blocks[-1][0] += wished - n * gap * blocks[-1][1]
            blocks[-1][1] += n
    found = [wished / n + gap * i for wished, n in blocks for i in range(int(n))]
    over = max(0.0, found[-1] - bounds[1]) if found else 0.0
    return [place - over for place in found]


def pad_range(values: Any) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room
