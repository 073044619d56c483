"""What a look found, in one line."""

from __future__ import annotations

from ablate.analysis.looks import UNDECIDED, Look
from ablate.formatting import count


def describe_look(look: Look, at_most: int) -> str:
    """Name the arms that a look decided, and how many go on."""
    decided = [f"{row.arm} is {row.verdict}" for row in look.arms if row.verdict != UNDECIDED]
    n_open = len(look.arms) - len(decided)
    left = f"{count(n_open, 'arm')} {'stays' if n_open == 1 else 'stay'} undecided" if n_open else ""
    ends = f"{left} after all {at_most} seeds" if n_open and look.seeds == at_most else left
    return f"look after {look.seeds} seeds: {'; '.join(filter(None, (*decided, ends)))}"
