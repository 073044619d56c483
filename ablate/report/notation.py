"""How numbers are written in every page, table and sentence, so that all of them agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ablate.analysis.speedup import Bound, SpeedUp, Target
from ablate.analysis.summary import Spread
from ablate.formatting import format_count, format_number, round_digits
from ablate.tracking.study_record import ArmRecord, Value

AXIS_NAMES = {
    "steps": "steps",
    "tokens": "tokens",
    "flops": "FLOPs",
    "seconds": "seconds",
    "gpu_seconds": "GPU-seconds",
}
DASH = "\N{EN DASH}"

HOW_JUDGED = "95 % intervals, not adjusted; judged by Holm-adjusted p-values"
"""What Holm's method changes, and what it does not. Every text that shows both says it in these words."""

_TIMES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def label_arms(arms: Sequence[ArmRecord]) -> dict[str, str]:
    """What arms are called on the pages: their levels, `differential / ngpt`; in full where two would share a name.

    Control characters, which a terminal would obey, become spaces.
    """
    labels = {arm.arm: " / ".join(label_level(axis, level) for axis, level in arm.axes.items()) for arm in arms}
    times = Counter(labels.values())
    chosen = {arm: label if label and times[label] == 1 else arm for arm, label in labels.items()}
    return {arm: "".join(c if c.isprintable() else " " for c in label) for arm, label in chosen.items()}


def clean_name(text: str) -> str:
    """A name, such as a diagnostic's, as part of a file's name."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def shorten(text: str, limit: int = 36) -> str:
    """The text, or its beginning and an ellipsis, for where a picture has little room."""
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def label_level(axis: str, level: Value) -> str:
    """The level, where it names itself, as a variant does; with its axis, where it is a number or a setting's value."""
    return level if isinstance(level, str) and "." not in axis else f"{axis.rpartition('.')[2]}={level}"


def format_ratio(value: float | None) -> str:
    """A ratio to three digits: 1.45x."""
    if value is None:
        return DASH
    rounded = round_digits(value)
    return f"{value:.0f}x" if rounded >= 100 else f"{value:.1f}x" if rounded >= 10 else f"{value:.2f}x"


def format_speedup(row: SpeedUp) -> str:
    """The value of a row with its interval, its bound, or the reason for neither."""
    return format_bounded(row.ratio, row.low, row.high, row.bound)


def format_bounded(ratio: float | None, low: float | None, high: float | None, bound: Bound | None) -> str:
    """A ratio with its interval, its bound, or the reason for neither."""
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


def format_target(target: Target) -> str:
    """A target in words: where on the baseline's budget, or which loss."""
    if isinstance(target, float):
        return f"a validation loss of {target:g}"
    return "the baseline's final loss" if target == "final" else f"the baseline's loss at {target} % of its budget"


def explain_targets(targets: Sequence[Target], share: str) -> str:
    """What the targets of a ladder are: `share` in its words, a loss, or either."""
    loss = "a validation loss (nats a token)"
    are_losses = {isinstance(target, float) for target in targets}
    return f"{share}, or {loss}" if len(are_losses) > 1 else loss if True in are_losses else share


def label_targets(targets: Sequence[Target]) -> str:
    """The title of a ladder's axis, whose ticks are `shorten_target`."""
    share = "the baseline's loss at this share of its budget"
    return f"target: {explain_targets(targets, share)}"


def shorten_target(target: Target) -> str:
    """A target where there is little room: `50 %`, `final` or a loss."""
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


def format_p_value(value: float | None) -> str:
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def join_with_and(parts: list[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
