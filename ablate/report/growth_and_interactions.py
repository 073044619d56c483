"""Further sentences of the answer: whether a speed-up grows along an axis, and whether gains add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ablate.analysis.effects import LOSS, Effect
from ablate.analysis.trend import Trend
from ablate.report.headline import LISTED, SIGNIFICANT
from ablate.report.notation import AXIS_NAMES, DASH, format_bounded, join_with_and, label_level

Direction = Literal["up", "down", "undecided"]


def describe_growth(trends: Sequence[Trend], axis: str) -> list[str]:
    """A sentence for each axis, and range of its levels, along which the speed-up on a cost `axis` could grow."""
    ranges: dict[tuple[str, float, float], list[Trend]] = {}
    for trend in trends:
        if trend.axis == axis:
            ranges.setdefault((trend.along, trend.first, trend.last), []).append(trend)
    return [_describe_along(rows) for rows in ranges.values()]


def judge_trend(trend: Trend) -> Direction:
    """`up` or `down` where the interval excludes 1, or where the number in a bound is beyond chance; else undecided."""
    if trend.p_value is None or trend.p_value >= SIGNIFICANT:
        return "undecided"
    if trend.low is not None and trend.low >= 1:
        return "up"
    return "down" if trend.high is not None and trend.high <= 1 else "undecided"


def format_growth(trend: Trend) -> str:
    """The growth with its interval, its bound, or the reason for neither."""
    bound = "not_determined" if trend.growth is None and trend.bound is None else trend.bound
    return format_bounded(trend.growth, trend.low, trend.high, bound)


def name_family(trend: Trend) -> str:
    return " / ".join(label_level(axis, level) for axis, level in trend.family.items()) or "the arm"


def _describe_along(rows: Sequence[Trend]) -> str:
    first = rows[0]
    ends = f"from {label_level(first.along, first.first)} to {label_level(first.along, first.last)}"
    cost = AXIS_NAMES[first.axis]
    if len(rows) == 1:
        if first.growth is None and first.bound in (None, "not_determined"):
            what = f"Whether the speed-up of {name_family(first)} in {cost} grows {ends} is not determined"
            return f"{what}: {first.note}{_describe_loss_change(first)}."
        verb = _TREND_WORDS[judge_trend(first)]
        return (
            f"Does it grow with {first.along}? {_begin(ends)}, the speed-up of {name_family(first)} in {cost} is "
            f"multiplied by {format_growth(first)}: {verb}."
        )
    listed = [f"{name_family(row)} {format_growth(row)}" for row in rows[:LISTED]]
    rest = [f"{len(rows) - LISTED} more in the table"] if len(rows) > LISTED else []
    return (
        f"Does it grow with {first.along}? {_begin(ends)}, the speed-ups in {cost} are multiplied by: "
        f"{join_with_and([*listed, *rest])}."
    )


def _describe_loss_change(trend: Trend) -> str:
    if trend.loss_low is None:
        return ""
    return f"; its final loss minus the baseline's changes by {format_loss_change(trend)} nats"


def format_loss_change(trend: Trend) -> str:
    """How the difference of losses changes, with its interval where it has one."""
    if trend.loss_change is None:
        return DASH
    return _write_signed(trend.loss_change, trend.loss_low, trend.loss_high)


_TREND_WORDS: dict[Direction, str] = {
    "up": "it clearly grows",
    "down": "it clearly shrinks",
    "undecided": "the study does not decide whether it grows",
}


def describe_interactions(effects: Sequence[Effect], within: Sequence[str]) -> list[str]:
    """What the levels do on average, and whether two do together what they do apart, on the final loss; nothing where
    the study has no two axes besides those of `within`."""
    known = [effect for effect in effects if effect.outcome == LOSS and not set(within) & set(effect.levels)]
    pairs = [effect for effect in known if len(effect.levels) == 2]
    if not pairs:
        return []
    singles = sorted((effect for effect in known if len(effect.levels) == 1), key=lambda effect: effect.estimate)
    by_axis: dict[str, list[Effect]] = {}
    for effect in singles:
        by_axis.setdefault(next(iter(effect.levels)), []).append(effect)
    changes = "; ".join(f"by {axis.rpartition('.')[2]}, {_list(mine)}" for axis, mine in sorted(by_axis.items()))
    average = f"On average over the other axes, the final loss changes (nats a token, 95 % intervals) {changes}."
    return [*([average] if singles else []), f"Do the gains add up? {_describe_pairs(pairs)}"]


def _describe_pairs(pairs: Sequence[Effect]) -> str:
    if len(pairs) == 1:
        (pair,) = pairs
        return (
            f"Together, {_name(pair, ' and ')} end {_SUM_WORDS[_judge(pair)]} the sum of what each changes alone (from "
            f"the sum, in nats: {_write(pair)})."
        )
    verdicts = [_judge(pair) for pair in pairs]
    counts = [f"{n} {one if n == 1 else many}" for key, (one, many) in _MANY_SUMS.items() if (n := verdicts.count(key))]
    largest = sorted(pairs, key=lambda pair: (_judge(pair) == "undecided", -abs(pair.estimate)))
    how = "from the sum of what each level changes alone, in nats"
    return f"Of {len(pairs)} pairs of levels, {join_with_and(counts)}; {how}: {_list(largest)}."


def _begin(text: str) -> str:
    return text[0].upper() + text[1:]


def _list(effects: Sequence[Effect]) -> str:
    listed = [f"{_name(effect)} {_write(effect)}" for effect in effects[:LISTED]]
    rest = [f"{len(effects) - LISTED} more in the table"] if len(effects) > LISTED else []
    return join_with_and([*listed, *rest])


def _name(effect: Effect, link: str = " with ") -> str:
    return link.join(label_level(axis, level) for axis, level in effect.levels.items())


def _write(effect: Effect) -> str:
    return _write_signed(effect.estimate, effect.low, effect.high)


def _write_signed(value: float, low: float | None, high: float | None) -> str:
    interval = f" [{low:+.4f}, {high:+.4f}]" if low is not None and high is not None else ""
    return f"{value:+.4f}{interval}"


def _judge(effect: Effect) -> Direction:
    if effect.p_holm is None or effect.p_holm >= SIGNIFICANT:
        return "undecided"
    return "up" if effect.estimate > 0 else "down"


_SUM_WORDS: Mapping[Direction, str] = {
    "up": "at a clearly higher loss than",
    "down": "at a clearly lower loss than",
    "undecided": "at a loss that this study cannot tell from",
}
_MANY_SUMS: Mapping[Direction, tuple[str, str]] = {
    "up": (
        "ends clearly above its sum (together it gains less, or loses more)",
        "end clearly above their sums (together they gain less, or lose more)",
    ),
    "down": (
        "ends clearly below its sum (together it gains more, or loses less)",
        "end clearly below their sums (together they gain more, or lose less)",
    ),
    "undecided": ("is undecided", "are undecided"),
}
