"""The finding of a study: which arms end better or worse than their baseline, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from ablate.analysis.differences import Difference
from ablate.analysis.verdicts import VERDICTS, Verdict
from ablate.formatting import count, format_number
from ablate.metrics import Direction, Metric
from ablate.report.notation import LISTED, capitalize, format_p_value, format_signed, join_with_and, name_rest

_MANY: dict[Verdict, str] = {
    "better": "better than the baseline",
    "worse": "worse than the baseline",
    "equivalent": "equivalent to the baseline",
    "undecided": "undecided",
}
_OPPOSITE: dict[Direction, Direction] = {"lower": "higher", "higher": "lower"}
_RANKS: dict[Verdict, int] = {"better": 0, "equivalent": 1, "undecided": 2, "worse": 3}


def rank_arms(differences: Sequence[Difference], compared: Sequence[str], metric: Metric) -> list[str]:
    """Order the compared arms by verdict and then by difference, the best first. Arms without a number come last."""
    ordered = sorted(differences, key=lambda row: (_RANKS[row.verdict], metric.orient(row.estimate)))
    return list(dict.fromkeys([*(row.arm for row in ordered), *compared]))


def describe_finding(
    differences: Sequence[Difference],
    compared: Sequence[str],
    labels: Mapping[str, str],
    metric: Metric,
    smallest: float | None,
) -> str:
    """State the verdicts on the compared arms and, if some are undecided, which differences the study can detect."""
    by_arm = {row.arm: row for row in differences}
    rows = [by_arm[arm] for arm in rank_arms(differences, compared, metric) if arm in by_arm]
    if not rows:
        which = f"{labels[compared[0]]} has" if len(compared) == 1 else f"None of the {len(compared)} arms has"
        which = f"{which} no" if len(compared) == 1 else f"{which} a"
        return f"{which} final {metric.short} that could be compared with its baseline's."
    if len(compared) == 1:
        sentences = [describe_one(rows[0], labels, metric, smallest)]
    else:
        sentences = [_describe_many(rows, len(compared), labels, metric)]
        small = [labels[row.arm] for row in rows if row.is_small and row.verdict in ("better", "worse")]
        if small and smallest is not None:
            names = join_with_and(small[:LISTED] + name_rest(small))
            what = "difference is" if len(small) == 1 else "differences are"
            sentences.append(f"The {what} clear but smaller than {smallest:g}{metric.unit} for {names}.")
    return " ".join((*sentences, *describe_detectable(rows, metric)))


def describe_detectable(rows: Sequence[Difference], metric: Metric) -> list[str]:
    """What the study could have seen, if it left an arm undecided; empty otherwise."""
    known = [row.detectable for row in rows if row.verdict == "undecided" and row.detectable is not None]
    if not known:
        return []
    size = f"{format_number(median(known))}{metric.unit}"
    which = "" if len(known) == 1 else " (median of the undecided arms)"
    return [f"This study finds a difference of {size} in 80 % of cases{which}."]


def describe_one(row: Difference, labels: Mapping[str, str], metric: Metric, smallest: float | None) -> str:
    """State the verdict on one arm, with its numbers."""
    arm, base, short = labels[row.arm], labels[row.baseline], metric.short
    size = f"{row.estimate:+.4f}{metric.unit}"
    if row.low_simultaneous is None or row.high_simultaneous is None:
        return f"{arm} minus {base} in final {short} is {size}. One pair of runs gives no interval and decides nothing."
    runs = count(row.n, "unpaired run" if row.method.startswith("Welch") else "seed")
    p = format_p_value(row.p_simultaneous)
    low, high = row.low_simultaneous, row.high_simultaneous
    shown = f"{size} (95 % interval {low:+.4f} to {high:+.4f}, {runs}, p {p if p.startswith('<') else f'= {p}'})"
    limit = "" if smallest is None else f"{smallest:g}{metric.unit}"
    if row.verdict == "equivalent":
        return f"Equivalent: {arm} ends at the same final {short} as {base} to within {limit}: {shown}."
    if row.verdict == "undecided":
        return f"The study does not decide whether {arm} ends at a better final {short} than {base}: {shown}."
    word = metric.direction if row.verdict == "better" else _OPPOSITE[metric.direction]
    small = f", although by less than {limit}" if row.is_small else ""
    return f"{capitalize(row.verdict)}: {arm} ends at a clearly {word} final {short} than {base}{small}: {shown}."


def _describe_many(rows: Sequence[Difference], n: int, labels: Mapping[str, str], metric: Metric) -> str:
    verdicts = [row.verdict for row in rows]
    counts = [(word, verdicts.count(word)) for word in VERDICTS if word in verdicts]
    listed = join_with_and([f"{labels[row.arm]} {format_difference(row)}" for row in rows[:LISTED]] + name_rest(rows))
    kind = "simultaneous 95 % intervals" if any(row.low_simultaneous is not None for row in rows) else "one seed each"
    what = f"difference in final {metric.short}{f',{metric.unit}' if metric.unit else ''}"
    return f"At the end of training, {count_verdicts(counts, n, len(rows))} ({what}, {kind}): {listed}."


def count_verdicts(counts: Sequence[tuple[Verdict, int]], n: int, n_known: int, n_diverged: int = 0) -> str:
    """`both arms are undecided`; `2 of 3 arms are better than the baseline and 1 is worse`.

    `n_known` of the `n` arms have a verdict; of the others, `n_diverged` diverged with every seed.
    """
    missing = n - n_known - n_diverged
    (first, n_first), *others = counts
    if not others and n_known == n:
        return f"{'both' if n == 2 else f'all {n}'} arms are {_MANY[first]}"
    parts = [f"{n_first} of {n} arms {'is' if n_first == 1 else 'are'} {_MANY[first]}"]
    parts += [f"{k} {'is' if k == 1 else 'are'} {word}" for word, k in others]
    if n_diverged:
        parts.append(f"{n_diverged} diverged")
    if missing:
        parts.append(f"{missing} {'has' if missing == 1 else 'have'} nothing to compare")
    return join_with_and(parts)


def format_difference(row: Difference) -> str:
    """A difference with its simultaneous interval, or a note that it has none."""
    shown = format_signed(row.estimate, row.low_simultaneous, row.high_simultaneous)
    return shown if row.low_simultaneous is not None else f"{shown} (no interval)"


def format_verdict(row: Difference) -> str:
    """The verdict, with a note if a clear difference is shown to be small."""
    return f"{row.verdict}, but small" if row.is_small and row.verdict in ("better", "worse") else row.verdict
