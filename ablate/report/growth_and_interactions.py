"""The middle sentences of the answer: whether a speedup grows along an axis, and whether two changes interact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ablate.analysis.effects import LOSS, Effect
from ablate.analysis.trend import Trend
from ablate.report.notation import (
    AXIS_NAMES,
    DASH,
    LISTED,
    SIGNIFICANT,
    capitalize,
    format_bounded,
    join_with_and,
    label_level,
    name_rest,
)

Direction = Literal["up", "down", "undecided"]


def describe_growth(trends: Sequence[Trend], axis: str) -> list[str]:
    """One sentence per axis, and range of its levels, along which the speedup on the cost `axis` could grow."""
    ranges: dict[tuple[str, float, float], list[Trend]] = {}
    for trend in trends:
        if trend.axis == axis:
            ranges.setdefault((trend.along, trend.first, trend.last), []).append(trend)
    return [_describe_along(rows) for rows in ranges.values()]


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


def name_family(trend: Trend) -> str:
    return " / ".join(label_level(axis, level) for axis, level in trend.family.items()) or "the arm"


def _describe_along(rows: Sequence[Trend]) -> str:
    first = rows[0]
    ends = f"from {label_level(first.along, first.first)} to {label_level(first.along, first.last)}"
    cost = AXIS_NAMES[first.axis]
    if len(rows) > 1:
        listed = [f"{name_family(row)} {format_growth(row)}" for row in rows[:LISTED]] + name_rest(rows)
        return f"{capitalize(ends)}, the speedups in {cost} are multiplied by these factors: {join_with_and(listed)}."
    speedup = f"the speedup of {name_family(first)} in {cost}"
    if first.growth is None and first.bound in (None, "not_determined"):
        answer = f"This study cannot determine whether {speedup} grows {ends}: {first.note}."
        if first.loss_low is None:
            return answer
        change = format_loss_change(first)
        return f"{answer} The final loss of {name_family(first)} minus the baseline's changes by {change} nats."
    claim = {
        "up": f"{speedup} clearly grows",
        "down": f"{speedup} clearly shrinks",
        "undecided": f"the study does not decide whether {speedup} grows",
    }[judge_trend(first)]
    return f"{capitalize(claim)} with {first.along}: {ends} it is multiplied by {format_growth(first)}."


def format_loss_change(trend: Trend) -> str:
    """The change in the difference of losses, with its interval if there is one."""
    if trend.loss_change is None:
        return DASH
    return _format_signed(trend.loss_change, trend.loss_low, trend.loss_high)


def describe_interactions(effects: Sequence[Effect], within: Sequence[str]) -> list[str]:
    """The average effect of each level on the final loss, and whether pairs of levels interact.

    Empty unless the study has two axes besides those of `within`.
    """
    known = [effect for effect in effects if effect.outcome == LOSS and not set(within) & set(effect.levels)]
    pairs = [effect for effect in known if len(effect.levels) == 2]
    if not pairs:
        return []
    by_axis: dict[str, list[Effect]] = {}
    for effect in sorted(known, key=lambda effect: effect.estimate):
        if len(effect.levels) == 1:
            by_axis.setdefault(next(iter(effect.levels)), []).append(effect)
    changes = "; ".join(f"by {axis.rpartition('.')[2]}, {_list(mine)}" for axis, mine in sorted(by_axis.items()))
    how = "the final loss changes as follows (nats per token, 95 % intervals)"
    average = f"Averaged over the other axes, {how}: {changes}."
    return [*([average] if by_axis else []), _describe_pair(pairs[0]) if len(pairs) == 1 else _describe_pairs(pairs)]


def _describe_pair(pair: Effect) -> str:
    names, size = _name(pair, " and "), f"{_format_effect(pair)} nats"
    verdict = _judge_interaction(pair)
    if verdict == "undecided":
        return f"Together, {names} show no detectable interaction: {size} from the sum of their separate effects."
    word = "higher" if verdict == "up" else "lower"
    return f"Together, {names} end at a clearly {word} loss than the sum of their separate effects: {size}."


def _describe_pairs(pairs: Sequence[Effect]) -> str:
    verdicts = [_judge_interaction(pair) for pair in pairs]
    counts = [
        f"{n} {one if n == 1 else many}" for key, (one, many) in _MANY_PAIRS.items() if (n := verdicts.count(key))
    ]
    largest = sorted(pairs, key=lambda pair: (_judge_interaction(pair) == "undecided", -abs(pair.estimate)))
    how = "Differences from the sum of the separate effects, in nats"
    return f"Among {len(pairs)} pairs of levels, {join_with_and(counts)}. {how}: {_list(largest)}."


_MANY_PAIRS: dict[Direction, tuple[str, str]] = {
    "up": (
        "ends clearly above the sum of its separate effects (it gains less or loses more)",
        "end clearly above the sum of their separate effects (they gain less or lose more)",
    ),
    "down": (
        "ends clearly below the sum of its separate effects (it gains more or loses less)",
        "end clearly below the sum of their separate effects (they gain more or lose less)",
    ),
    "undecided": ("shows no detectable interaction", "show no detectable interaction"),
}


def _judge_interaction(effect: Effect) -> Direction:
    if effect.p_holm is None or effect.p_holm >= SIGNIFICANT:
        return "undecided"
    return "up" if effect.estimate > 0 else "down"


def _list(effects: Sequence[Effect]) -> str:
    return join_with_and(
        [f"{_name(effect)} {_format_effect(effect)}" for effect in effects[:LISTED]] + name_rest(effects)
    )


def _name(effect: Effect, link: str = " with ") -> str:
    return link.join(label_level(axis, level) for axis, level in effect.levels.items())


def _format_effect(effect: Effect) -> str:
    return _format_signed(effect.estimate, effect.low, effect.high)


def _format_signed(value: float, low: float | None, high: float | None) -> str:
    interval = f" [{low:+.4f}, {high:+.4f}]" if low is not None and high is not None else ""
    return f"{value:+.4f}{interval}"
