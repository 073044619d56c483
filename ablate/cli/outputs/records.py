"""What `leaderboard` prints."""

from __future__ import annotations

from ablate.cli.outputs.base import Output


class RankedEntry(Output):
    """An entry of a board."""

    entry: str
    """Study and arm, as the page names them."""
    report: str
    """Folder of its report."""
    arm: str
    """Name of the arm in the report."""
    rank_low: int
    """The best rank that it may have: one more than the number of entries that are shown to be better."""
    rank_high: int
    """The worst rank that it may have. Entries whose ranks overlap share a place."""
    value: float
    """Mean final value, or geometric mean of the cost of the target."""
    n_seeds: int
    """Number of its runs."""
    verdict: str
    """The published verdict against its own baseline: better, worse, equivalent, undecided or baseline."""
    verified: tuple[str, ...]
    """Outcome of each verification beside its report: confirmed, refuted or undecided."""


class RankedPair(Output):
    """The test of two entries. Intervals and p-values hold for all pairs of a board together."""

    first: str
    """The entry with the better mean."""
    second: str
    """The other entry."""
    value: float
    """Second minus first; on boards of costs, second over first."""
    low: float | None
    """Lower end of its 95 % interval; null if an entry has one run."""
    high: float | None
    """Its upper end."""
    p_value: float | None
    """The adjusted p-value."""
    is_clear: bool
    """Whether the first entry is shown to be better."""


class RankedBoard(Output):
    """A board of a benchmark."""

    name: str
    """Its name, such as tokens."""
    axis: str
    """What it ranks: loss, or the cost of the target in tokens, flops or seconds."""
    device: str
    """The device of a board of seconds; empty for others."""
    entries: tuple[RankedEntry, ...]
    """The ranked entries, the best mean first."""
    pairs: tuple[RankedPair, ...]
    """The tests of all pairs."""
    not_ranked: dict[str, str]
    """Entry to the reason why it is not ranked here."""


class RefusedArm(Output):
    """An arm that breaks a rule of the benchmark."""

    entry: str
    """Study and arm."""
    report: str
    """Folder of its report."""
    rule: str
    """The rule: data, metric, settings, budget, size or seeds."""
    message: str
    """How it breaks the rule."""


class RankedBenchmark(Output):
    """The leaderboard of a benchmark."""

    benchmark: str
    """Name of the benchmark."""
    boards: tuple[RankedBoard, ...]
    """Its boards."""
    refused: tuple[RefusedArm, ...]
    """The arms that were not admitted."""
    page: str
    """Path of the page."""
    csv: str
    """Path of the table, with one line per entry and board."""
