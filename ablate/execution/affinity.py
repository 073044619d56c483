"""Which of the runs that wait suits an idle worker best: one whose compiled code the worker has loaded.

A worker compiles or loads the code of each kind of model once, which takes seconds. So each worker trains few kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from itertools import islice

from ablate.plan import Run
from ablate.plan.setup import Setup

LOOKED_AT = 256  # runs, so that choosing takes little time however many wait


@dataclass(frozen=True)
class Affinity:
    """The kinds of model whose compiled code a worker has loaded, and those that other workers have."""

    own: Collection[str] = ()
    others: Collection[str] = ()

    def rank(self, setup: Setup, *, is_next: bool = False) -> int:
        """How well a run suits the worker: the lower, the better. `is_next` is a run of the next round.

        A worker takes the kinds it knows, then those that no worker knows. It then begins the next round, and only if
        it knows nothing there either does it load what other workers know, so that it is never idle.
        """
        kind = setup.compiled_kind
        if kind is None or kind in self.own:
            return 2 if is_next else 0
        return 4 if is_next else 3 if kind in self.others else 1

    def choose(self, runs: Iterable[Run], round_of: Callable[[Run], Hashable]) -> Run | None:
        """The best of the first runs: those in the round of the first one and in the next round. None without runs."""
        rounds: list[Hashable] = []
        ranked: list[tuple[int, Run]] = []
        for run in islice(runs, LOOKED_AT):
            number = round_of(run)
            if number not in rounds:
                rounds.append(number)
            if len(rounds) > 2:
                break
            rank = self.rank(run.arm.setup, is_next=number != rounds[0])
            if rank == 0:
                return run
            ranked.append((rank, run))
        return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


NO_AFFINITY = Affinity()
