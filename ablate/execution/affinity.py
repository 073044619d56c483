"""Choose the waiting run that suits an idle worker best, preferably one whose compiled code it has loaded.

A worker compiles or loads the code of each kind of model once, which takes seconds. So each worker trains few kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from itertools import islice

from ablate.plan import Run
from ablate.plan.estimate import ORDER_PACE
from ablate.plan.setup import Setup

LOOKED_AT = 256  # runs, so that choosing takes little time however many wait
SHORTEST = 0.5  # of the length of the first run: a much shorter one would keep a long one waiting for the end


@dataclass(frozen=True)
class Affinity:
    """The kinds of model whose compiled code a worker has loaded, and those that other workers have loaded."""

    own: Collection[str] = ()
    others: Collection[str] = ()

    def rank(self, setup: Setup, *, is_next: bool = False) -> int:
        """How well a run suits the worker: the lower, the better. `is_next` is a run of the next round.

        A worker takes the kinds that it knows, then those that no worker knows, then its own of the next round. If it
        knows none of those, it loads a kind that another worker has, so it never sits idle.
        """
        kind = setup.compiled_kind
        if kind is None or kind in self.own:
            return 2 if is_next else 0
        return 4 if is_next else 3 if kind in self.others else 1

    def choose(self, runs: Iterable[Run], round_of: Callable[[Run], Hashable]) -> Run | None:
        """The best of the first runs: those in the round of the first one and in the next round. None without runs.

        Runs come with the longest first, and one that is much shorter than the first does not overtake it.
        """
        rounds: list[Hashable] = []
        best, best_rank, least_s = None, 5, 0.0
        for run in islice(runs, LOOKED_AT):
            number = round_of(run)
            if number not in rounds:
                rounds.append(number)
            if len(rounds) > 2:
                break
            rank = self.rank(run.arm.setup, is_next=number != rounds[0])
            if best is None:
                least_s = SHORTEST * _length(run)
            if rank < best_rank and _length(run) >= least_s:
                best, best_rank = run, rank
            if best_rank == 0:
                break
        return best


def _length(run: Run) -> float:
    """About how long a run takes, beside others."""
    return run.arm.setup.seconds(ORDER_PACE) or 0.0


NO_AFFINITY = Affinity()
