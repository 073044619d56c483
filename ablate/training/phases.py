"""Training in phases, each with data or labels of its own: what a run reached in each, and the trend over them.

A network that loses plasticity learns later phases worse than earlier ones (Dohare et al., Nature 632, 2024).
"""

from __future__ import annotations

from collections.abc import Sequence


def summarize_phases(name: str, reached: Sequence[float], *, is_last: bool) -> dict[str, float]:
    """The metrics at the end of a phase, given the values at the ends of all phases so far.

    The mean and the trend come with the last phase only, because before it they are those of other phases.
    """
    found = {f"val_phase_{name}": reached[-1]}
    if is_last:
        found[f"val_mean_phase_{name}"] = sum(reached) / len(reached)
        found[f"val_phase_{name}_trend"] = slope(reached)
    return found


def slope(values: Sequence[float]) -> float:
    """The slope of a line through values at 1, 2, ..., by least squares; 0 for a single value."""
    middle = (len(values) - 1) / 2
    squares = sum((place - middle) ** 2 for place in range(len(values)))
    return sum((place - middle) * value for place, value in enumerate(values)) / squares if squares else 0.0
