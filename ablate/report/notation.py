"""How numbers, targets and names of arms are written on every page, in every table and in every sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ablate.analysis.comparison import Target
from ablate.analysis.speedup import Bound, SpeedUp
from ablate.analysis.summary import Spread
from ablate.formatting import format_count, format_number, round_digits
from ablate.metrics import LOSS, Metric

AXIS_NAMES = {
    "steps": "steps",
    "tokens": "tokens",
    "flops": "FLOPs",
    "seconds": "seconds",
    "gpu_seconds": "GPU-seconds",
}
DASH = "\N{EN DASH}"
"""Stands for a number that is not known."""

SIGNIFICANT = 0.05
LISTED = 4
"""Arms, trends or effects that a sentence names; the table has the others."""

_TIMES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def clean_name(text: str) -> str:
    """A name, such as a diagnostic's, as part of a file name."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def elide(text: str, limit: int = 36) -> str:
    """The text, cut to fit into a picture. Names of arms often differ at the end, so the middle is cut."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - limit // 2 - 1]}\N{HORIZONTAL ELLIPSIS}{text[-(limit // 2) :]}"


def format_ratio(value: float | None) -> str:
    """A ratio to three digits: 1.45x."""
    if value is None:
        return DASH
    rounded = round_digits(value)
    return f"{value:.0f}x" if rounded >= 100 else f"{value:.1f}x" if rounded >= 10 else f"{value:.2f}x"


def format_speedup(row: SpeedUp) -> str:
    """A speedup with its interval, its bound, or a note that it is not determined."""
    return format_bounded(row.ratio, row.low, row.high, row.bound)


def format_bounded(ratio: float | None, low: float | None, high: float | None, bound: Bound | None) -> str:
    """A ratio with its interval, its bound, or a note that it is not determined."""
    if bound == "at_most":
        return f"at most {format_ratio(high)}"
    if bound == "at_least":
        return f"at least {format_ratio(low)}"
    if bound == "not_determined":
        return "not determined"
    if ratio is None:
        return DASH
    if low is None or high is None:
        return f"{format_ratio(ratio)} (no interval)"
    return f"{format_ratio(ratio)} [{low:.2f}, {high:.2f}]"


def format_target(target: Target, metric: Metric) -> str:
    """A target as a phrase: the baseline's value of the metric at a share of its budget, or an absolute value."""
    if isinstance(target, float):
        return f"a {metric.label} of {target:g}"
    if target == "final":
        return f"the baseline's final {metric.short}"
    return f"the baseline's {metric.short} at {target} % of its budget"


def explain_targets(targets: Sequence[Target], share: str, metric: Metric = LOSS) -> str:
    """Define the targets of a ladder: `share` describes those at a share of the budget; the others are values."""
    value = f"a {metric.full_label}"
    are_values = {isinstance(target, float) for target in targets}
    return f"{share}, or {value}" if len(are_values) > 1 else value if True in are_values else share


def label_targets(targets: Sequence[Target], metric: Metric) -> str:
    """What the targets of a ladder are. Its ticks come from `shorten_target`."""
    share = f"the baseline's {metric.short} at this share of its budget"
    return explain_targets(targets, share, metric)


def shorten_target(target: Target) -> str:
    """A target in a column's header or a tick: `50 %`, `final` or a value."""
    return f"{target:g}" if isinstance(target, float) else target if target == "final" else f"{target} %"


def format_spread(spread: Spread, digits: int = 4) -> str:
    """Mean and standard deviation: 3.1234 ± 0.0021."""
    if spread.mean is None:
        return DASH
    sd = f" ± {spread.sd:.{digits}f}" if spread.sd is not None else ""
    return f"{spread.mean:.{digits}f}{sd}"


def format_size(value: float | None) -> str:
    """A large number to three digits with its prefix: 1.23M."""
    return DASH if value is None else format_count(value)


def format_bytes(value: int | None) -> str:
    return DASH if value is None else f"{value / 2**30:.2f} GiB"


def format_time(seconds: float | None) -> str:
    """A time to three digits in its own unit."""
    if seconds is None:
        return DASH
    rounded = round_digits(seconds)
    size, unit = next(((size, unit) for size, unit in _TIMES if rounded >= size), (0.001, "ms"))
    return f"{format_number(rounded / size)} {unit}"


def format_signed(value: float, low: float | None, high: float | None) -> str:
    """A difference with its interval, if it has one: -0.0123 [-0.0200, -0.0046]."""
    interval = f" [{low:+.4f}, {high:+.4f}]" if low is not None and high is not None else ""
    return f"{value:+.4f}{interval}"


def format_p_value(value: float | None) -> str:
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def join_with_and(parts: list[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def name_rest(items: Sequence[Any]) -> list[str]:
    """How many items a sentence that names `LISTED` of them leaves to the table; empty if it names them all."""
    return [f"{len(items) - LISTED} more in the table"] if len(items) > LISTED else []


def capitalize(sentence: str) -> str:
    """The sentence with a capital first letter; names in it stay as they are."""
    is_path = "/" in sentence.partition(" ")[0]
    return sentence if is_path else f"{sentence[0].upper()}{sentence[1:]}"
