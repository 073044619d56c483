"""The middle sentences of the answer: whether a speedup grows along an axis, and whether two changes interact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ablate.analysis.effects import FINAL, Effect
from ablate.analysis.trend import Trend
from ablate.metrics import LOSS, Metric
from ablate.report.notation import (
    AXIS_NAMES,
    DASH,
    LISTED,
    SIGNIFICANT,
    capitalize,
    format_bounded,
    format_signed,
    join_with_and,
    name_rest,
)
from ablate.report.scale import name_family
from ablate.tracking.arm_labels import label_level, label_levels

Direction = Literal["up", "down", "undecided"]
NOTHING: Mapping[str, str] = {}


def describe_growth(
    trends: Sequence[Trend], axis: str, metric: Metric = LOSS, shared: Mapping[str, str] = NOTHING
) -> list[str]:
    """One sentence per axis, and range of its levels, along which the speedup on the cost `axis` could grow.

    `shared` is that of `find_shared`, which levels are named without.
    """
    ranges: dict[tuple[str, float, float], list[Trend]] = {}
    for trend in trends:
        if trend.axis == axis:
            ranges.setdefault((trend.along, trend.first, trend.last), []).append(trend)
    return [_describe_along(rows, metric, shared) for rows in ranges.values()]


def judge_trend(trend: Trend) -> Direction:
    """`up` or `down` if the interval, or the bound, excludes 1 and the p-value is below 0.05; otherwise undecided."""
    if trend.p_value is None or trend.p_value >= SIGNIFICANT:
        return "undecided"
    if trend.low is not None and trend.low >= 1:
        return "up"
    return "down" if trend.high is not None and trend.high <= 1 else "undecided"


def format_growth(trend: Trend) -> str:
    """The growth with its interval, its bound, or a note that it is not determined."""
    bound = "not_determined" if trend.growth is None and trend.bound is None else trend.bound
    return format_bounded(trend.growth, trend.low, trend.high, bound)


def _describe_along(rows: Sequence[Trend], metric: Metric, shared: Mapping[str, str]) -> str:
    first = rows[0]
    name = name_family(first.family, shared)
    ends = f"from {label_level(first.along, first.first)} to {label_level(first.along, first.last)}"
    cost = AXIS_NAMES[first.axis]
    if len(rows) > 1:
        listed = [f"{name_family(row.family, shared)} {format_growth(row)}" for row in rows[:LISTED]] + name_rest(rows)
        return f"{capitalize(ends)}, the speedups in {cost} are multiplied by these factors: {join_with_and(listed)}."
    speedup = f"the speedup of {name} in {cost}"
    if first.growth is None and first.bound in (None, "not_determined"):
        answer = f"This study cannot determine whether {speedup} grows {ends}: {first.note}."
        change = format_loss_change(first)
        of = f"he final {metric.short} of {name} minus the baseline's changes by {change}{metric.unit}"
        if not metric.has_curve:  # it has no speedup
            return f"{capitalize(ends)}, t{of}."
        return answer if first.loss_low is None else f"{answer} T{of}."
    claim = {
        "up": f"{speedup} clearly grows",
        "down": f"{speedup} clearly shrinks",
        "undecided": f"the study does not decide whether {speedup} grows",
    }[judge_trend(first)]
    return f"{capitalize(claim)} with {first.along}: {ends} it is multiplied by {format_growth(first)}."


def format_loss_change(trend: Trend) -> str:
    """The change in the difference of final values, with its interval if there is one."""
    if trend.loss_change is None:
        return DASH
    return format_signed(trend.loss_change, trend.loss_low, trend.loss_high)


def describe_interactions(
    effects: Sequence[Effect], within: Sequence[str], metric: Metric = LOSS, shared: Mapping[str, str] = NOTHING
) -> list[str]:
    """The average effect of each level on the final value of the metric, and whether pairs of levels interact.

    Empty unless the study has two axes besides those of `within`.
    """
    known = [effect for effect in effects if effect.outcome == FINAL and not set(within) & set(effect.levels)]
    pairs = [effect for effect in known if len(effect.levels) == 2]
    if not pairs:
        return []
    by_axis: dict[str, list[Effect]] = {}
    for effect in sorted(known, key=lambda effect: metric.orient(effect.estimate)):
        if len(effect.levels) == 1:
            by_axis.setdefault(next(iter(effect.levels)), []).append(effect)
    changes = "; ".join(
        f"by {axis.rpartition('.')[2]}, {_list(mine, shared)}" for axis, mine in sorted(by_axis.items())
    )
    unit = "nats per token, " if metric.is_loss else ""
    how = f"the final {metric.short} changes as follows ({unit}simultaneous 95 % intervals)"
    average = f"Averaged over the other axes, {how}: {changes}."
    joint = _describe_pair(pairs[0], metric, shared) if len(pairs) == 1 else _describe_pairs(pairs, metric, shared)
    return [*([average] if by_axis else []), joint]


def _describe_pair(pair: Effect, metric: Metric, shared: Mapping[str, str]) -> str:
    names, size = label_levels(pair.levels, shared, " and "), f"{_format_effect(pair)}{metric.unit}"
    verdict = _judge_interaction(pair)
    if verdict == "undecided":
        return f"Together, {names} show no detectable interaction: {size} from the sum of their separate effects."
    word = "higher" if verdict == "up" else "lower"
    return f"Together, {names} end at a clearly {word} {metric.short} than the sum of their separate effects: {size}."


def _describe_pairs(pairs: Sequence[Effect], metric: Metric, shared: Mapping[str, str]) -> str:
    verdicts = [_judge_interaction(pair) for pair in pairs]
    counts = [
        f"{n} {_describe_verdict(key, is_one=n == 1, is_better=metric.is_better(sign, 0.0))}"
        for key, sign in _SIGNS.items()
        if (n := verdicts.count(key))
    ]
    largest = sorted(pairs, key=lambda pair: (_judge_interaction(pair) == "undecided", -abs(pair.estimate)))
    how = f"Differences from the sum of the separate effects{', in nats' if metric.is_loss else ''}"
    return f"Among {len(pairs)} pairs of levels, {join_with_and(counts)}. {how}: {_list(largest, shared)}."


_SIGNS: dict[Direction, float] = {"up": 1.0, "down": -1.0, "undecided": 0.0}  # of the difference from the sum


def _describe_verdict(verdict: Direction, *, is_one: bool, is_better: bool) -> str:
    """The end of a sentence about the pairs with a verdict. `is_better`: they end at better values than the sum."""
    s, whose, they = ("s", "its", "it") if is_one else ("", "their", "they")
    if verdict == "undecided":
        return f"show{s} no detectable interaction"
    side, (more, less) = "above" if verdict == "up" else "below", ("more", "less") if is_better else ("less", "more")
    gain = f"{they} gain{s} {more} or lose{s} {less}"
    return f"end{s} clearly {side} the sum of {whose} separate effects ({gain})"


def _judge_interaction(effect: Effect) -> Direction:
    if effect.p_simultaneous is None or effect.p_simultaneous >= SIGNIFICANT:
        return "undecided"
    return "up" if effect.estimate > 0 else "down"


def _list(effects: Sequence[Effect], shared: Mapping[str, str]) -> str:
    listed = [f"{label_levels(e.levels, shared, ' with ')} {_format_effect(e)}" for e in effects[:LISTED]]
    return join_with_and(listed + name_rest(effects))


def _format_effect(effect: Effect) -> str:
    return format_signed(effect.estimate, effect.low_simultaneous, effect.high_simultaneous)
