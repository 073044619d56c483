"""One look for an arm in every picture: colours that the colour-blind can tell apart, and dashes after those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ablate.analysis.summary import ArmSummary

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito, Color Universal Design (2008), without black and the yellow that white paper swallows."""

BASELINE_COLORS = ("#6b7280", "#a16207", "#7c3aed", "#0f766e")
"""Muted, one a group of `compare_within`."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""As Plotly names them."""


_STROKES = {"solid": (), "dash": (6, 3), "dot": (2, 2), "dashdot": (6, 2, 2, 2), "longdash": (10, 3)}


@dataclass(frozen=True)
class Look:
    color: str
    dash: str

    @property
    def strokes(self) -> tuple[int, ...]:
        """Lengths of strokes and gaps (pixels), alternating; empty for a solid line."""
        return _STROKES[self.dash]


def assign_looks(arms: Sequence[ArmSummary]) -> dict[str, Look]:
    """Baselines first take their own colours; then each arm a colour, and with each round of colours a new dash."""
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
