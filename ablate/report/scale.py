"""What the pages say about scale: predictions along an axis, and scaling laws of single arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ablate.analysis.scaling import Prediction, ScalingLaw
from ablate.formatting import format_number
from ablate.metrics import Metric
from ablate.report.notation import DASH, LISTED, format_ratio, format_signed, join_with_and, name_rest
from ablate.report.table import Table
from ablate.tracking.arm_labels import label_level, label_levels
from ablate.tracking.values import Value

EXTRAPOLATION = "an extrapolation"


def describe_predictions(predictions: Sequence[Prediction], metric: Metric, shared: Mapping[str, str]) -> list[str]:
    """One sentence per axis: the prediction for the next level, or whether the one that was held out came true."""
    sentences = []
    for along in dict.fromkeys(row.along for row in predictions):
        rows = [row for row in predictions if row.along == along]
        listed = join_with_and([_describe(row, shared) for row in rows[:LISTED]] + name_rest(rows))
        level = float(f"{rows[0].level:.4g}")
        at = label_level(along, int(level) if level.is_integer() else level)
        scored = [row for row in rows if row.is_inside is not None]
        if not scored:
            sentences.append(
                f"If the trend goes on, the difference in final {metric.short} at {at} is ({EXTRAPOLATION}, 95 % "
                f"prediction interval): {listed}."
            )
        else:
            n_hits = sum(bool(row.is_inside) for row in scored)
            sentences.append(
                f"The smaller levels predict {at}, which was held out, in {n_hits} of {len(scored)} cases (95 % "
                f"prediction interval): {listed}."
            )
    return sentences


def _describe(row: Prediction, shared: Mapping[str, str]) -> str:
    shown = f"{name_family(row.family, shared)} {format_signed(row.predicted, row.low, row.high)}"
    return shown if row.actual is None else f"{shown}, measured {row.actual:+.4f}"


def name_family(family: Mapping[str, Value], shared: Mapping[str, str]) -> str:
    """The name of arms that differ in one axis only, from their levels on the others."""
    return label_levels(family, shared) or "the arm"


def tabulate_predictions(predictions: Sequence[Prediction], metric: Metric, shared: Mapping[str, str]) -> Table:
    header = ("Arm", "Axis", "Fitted levels", "Predicted level", "Predicted", "Measured", "In the interval")
    rows = tuple(
        (
            name_family(row.family, shared),
            row.along,
            ", ".join(f"{level:g}" for level in row.levels),
            f"{row.level:.4g}" if row.actual is not None else f"{row.level:.4g} ({EXTRAPOLATION})",
            format_signed(row.predicted, row.low, row.high),
            DASH if row.actual is None else f"{row.actual:+.4f}",
            DASH if row.is_inside is None else "yes" if row.is_inside else "no",
        )
        for row in predictions
    )
    caption = f"Difference in final {metric.short} at the next level of an axis, with 95 % prediction intervals"
    note = (
        "A straight line in the logarithm of the level, fitted to the differences of all seeds. The interval is for "
        "the mean over as many seeds. It holds if the line goes on beyond the levels that were trained."
    )
    return Table("predictions", caption, header, rows, note)


def tabulate_scaling(laws: Sequence[ScalingLaw], metric: Metric, shared: Mapping[str, str]) -> Table:
    """The fit of each arm, and its compute-equivalent speedup at each level."""
    levels = tuple(dict.fromkeys(level for law in laws for level in law.levels))
    has_speedups = any(law.speedups for law in laws)
    columns = tuple(f"Speedup at {level:.4g}" for level in levels) if has_speedups else ()
    rows = []
    for law in laws:
        speedups = dict(zip(law.levels, law.speedups, strict=False))
        cells = [_format_speedup(speedups.get(level)) for level in levels] if has_speedups else []
        fit = (
            ""
            if law.floor is None or law.factor is None
            else f"{law.floor:.4g} + {law.factor:.3g} C^-{law.exponent:.3g}"
        )
        rows.append(
            (
                name_family(law.family, shared),
                law.along,
                fit or law.note,
                _format_interval(law.floor, law.floor_interval),
                _format_interval(law.exponent, law.exponent_interval),
                *cells,
            )
        )
    header = ("Arm", "Axis", f"Final {metric.short}", "Floor E", "Exponent a", *columns)
    computes = join_with_and(list(dict.fromkeys(law.compute for law in laws)))
    note = f"E + A C^-a by least squares, with C = {computes}. Intervals are from a bootstrap over seeds."
    if has_speedups:
        note += (
            " A compute-equivalent speedup is the FLOPs with which the baseline's fit ends at the arm's loss, divided "
            "by the arm's FLOPs; beyond the baseline's largest level it is an extrapolation."
        )
    return Table("scaling", f"Scaling laws of the final {metric.short}", header, tuple(rows), note)


def _format_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return DASH
    shown = format_number(value)
    return shown if interval is None else f"{shown} [{format_number(interval[0])}, {format_number(interval[1])}]"


def _format_speedup(found: tuple[float, float | None, float | None] | None) -> str:
    if found is None:
        return DASH
    ratio, low, high = found
    return format_ratio(ratio) if low is None or high is None else f"{format_ratio(ratio)} [{low:.2f}, {high:.2f}]"
