"""The color and dash of each arm, the same in every figure, in colors that color-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ablate.analysis.summary import ArmSummary

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito, Color Universal Design (2008), without black, and without yellow, which is invisible on white."""

BASELINE_COLORS = ("#6b7280", "#a16207", "#7c3aed", "#0f766e")
"""Muted colors, one per group of `compare_within`."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""Plotly's names."""

_STROKES = {"solid": (), "dash": (6, 3), "dot": (2, 2), "dashdot": (6, 2, 2, 2), "longdash": (10, 3)}


@dataclass(frozen=True)
class Look:
    color: str
    dash: str

    @property
    def strokes(self) -> tuple[int, ...]:
        """Alternating lengths of strokes and gaps in pixels. Empty for a solid line."""
        return _STROKES[self.dash]


def assign_looks(arms: Sequence[ArmSummary]) -> dict[str, Look]:
    """Give baselines the muted colors and other arms the bright ones, with a new dash after each round of colors."""
    looks: dict[str, Look] = {}
    n_baselines = n_others = 0
    for arm in arms:
        if arm.is_baseline:
            looks[arm.arm] = _pick(BASELINE_COLORS, n_baselines)
            n_baselines += 1
        else:
            looks[arm.arm] = _pick(COLORS, n_others)
            n_others += 1
    return looks


def _pick(colors: Sequence[str], index: int) -> Look:
    return Look(colors[index % len(colors)], DASHES[index // len(colors) % len(DASHES)])
