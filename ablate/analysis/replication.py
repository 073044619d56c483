"""Whether fresh seeds confirm or refute a published verdict.

The fresh runs are a study of their own: the same arms at other seeds, with their own verdicts and simultaneous
intervals. With that:

- better or worse: confirmed if the fresh verdict is the same. Refuted if it is not and the two intervals do not
  overlap, so an interval on the other side of 0 refutes.
- equivalent: confirmed if the fresh difference is shown to be smaller than the smallest effect of interest too. Refuted
  if its interval lies beyond that effect.
- undecided: the report only claims its interval, so there is no verdict to confirm. Refuted if the intervals do not
  overlap.

Everything else is undecided. A verdict is published because it was significant, so published estimates are too large on
average (the winner's curse). That is why a fresh interval without the published estimate does not refute: it would
refute true verdicts far too often. `python -m benchmarks.replication` measures how often either outcome is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from ablate.analysis.differences import Difference
from ablate.tracking.verifications import Measured, Replication, Size


@dataclass(frozen=True)
class Judgment:
    """The outcome for one published verdict, why, and how the size of the difference compares."""

    outcome: Replication
    reason: str
    size: Size


def measure(row: Difference) -> Measured:
    """The numbers of a difference that a verification keeps."""
    return Measured(
        verdict=row.verdict,
        is_small=row.is_small,
        estimate=row.estimate,
        low=row.low_simultaneous,
        high=row.high_simultaneous,
        n_pairs=row.n,
        method=row.method,
    )


def judge_replication(
    published: Measured, fresh: Measured | None, margin: float | None = None, n_diverged: int = 0
) -> Judgment:
    """Compare a published difference with the one at fresh seeds.

    `margin` is the smallest effect of interest, and `n_diverged` the number of fresh runs of either side that diverged.
    Their values are unknown, so nothing is confirmed without them.
    """
    if fresh is None or fresh.low is None or fresh.high is None:
        return Judgment("undecided", "Fewer than two pairs of fresh runs have a final value.", "unknown")
    size, is_apart = compare_sizes(published, fresh), are_apart(published, fresh)
    if published.verdict == "equivalent":
        outcome, reason = _judge_equivalence(fresh, margin)
    elif published.verdict == "undecided":
        outcome, reason = "undecided", "An undecided verdict claims nothing that could be confirmed."
        if is_apart:
            outcome, reason = "refuted", "The fresh interval does not overlap the published one."
    elif fresh.verdict == published.verdict:
        outcome, reason = "confirmed", f"At the fresh seeds, too, the arm is {published.verdict}."
    elif is_apart:
        outcome = "refuted"
        reason = f"At the fresh seeds, the arm is not {published.verdict}, and the intervals do not overlap."
    else:
        outcome = "undecided"
        reason = f"The fresh seeds do not show that the arm is {published.verdict}, but the intervals overlap."
    if outcome == "confirmed" and n_diverged:
        outcome, reason = "undecided", f"{n_diverged} of the fresh runs diverged, so the others are not enough."
    return Judgment(outcome, reason, size)


def _judge_equivalence(fresh: Measured, margin: float | None) -> tuple[Replication, str]:
    if fresh.is_small:
        return "confirmed", "At the fresh seeds, too, the difference is shown to be smaller than what matters."
    if margin is not None and fresh.low is not None and fresh.high is not None and _is_beyond(fresh, margin):
        return "refuted", f"The fresh interval lies beyond {margin:g}, the smallest difference that matters."
    return "undecided", "The fresh seeds do not show that the difference is smaller than what matters."


def _is_beyond(fresh: Measured, margin: float) -> bool:
    assert fresh.low is not None and fresh.high is not None
    return fresh.low > margin or fresh.high < -margin


def are_apart(published: Measured, fresh: Measured) -> bool:
    """Tell if both have an interval, and the intervals do not overlap."""
    if published.low is None or published.high is None or fresh.low is None or fresh.high is None:
        return False
    return fresh.low > published.high or fresh.high < published.low


def compare_sizes(published: Measured, fresh: Measured) -> Size:
    """Say whether the fresh difference is as large as the published one, as far as their intervals tell."""
    if published.low is None or fresh.low is None:
        return "unknown"
    if not are_apart(published, fresh):
        return "as published"
    sign = 1 if published.estimate >= 0 else -1
    return "larger" if sign * fresh.estimate > sign * published.estimate else "smaller"
