"""Colors and dashes, the same in every figure, in colors that color-blind readers can tell apart."""

from __future__ import annotations

from dataclasses import dataclass

DASHES: tuple[tuple[int, ...], ...] = ((), (6, 3), (2, 2), (10, 3, 2, 3))
"""Strokes and gaps in pixels, one per level. Empty for a solid line."""


@dataclass(frozen=True)
class Theme:
    """Colors of a page. `lines` begins with that of a baseline; the other seven are for levels in their order."""

    paper: str
    ink: str
    soft: str
    line: str
    lines: tuple[str, ...]
    other: str

    @property
    def every(self) -> tuple[str, ...]:
        return (self.paper, self.ink, self.soft, self.line, *self.lines, self.other)


LIGHT = Theme(
    paper="#ffffff",
    ink="#1a1f29",
    soft="#566072",
    line="#d5dae3",
    lines=("#697280", "#0068a6", "#c24e00", "#007a5a", "#a8487f", "#8a6500", "#6d4bc3", "#2b2f36"),
    other="#a3abb8",
)
DARK = Theme(
    paper="#12151b",
    ink="#e7eaf0",
    soft="#a3adbd",
    line="#343c4a",
    lines=("#9aa4b4", "#5cb3ee", "#f58d4a", "#3cc79b", "#e58fc0", "#e0b04a", "#b39bf5", "#d5d9e0"),
    other="#5d6675",
)
"""After Okabe and Ito, Color Universal Design (2008): darker on white and lighter on black, so that text is legible."""

MAX_COLORS = len(LIGHT.lines)
