"""The first and the last sentence of the answer: the result, and its price and caveats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ablate.analysis.differences import Difference
from ablate.analysis.fairness import UNKNOWN, Fairness
from ablate.analysis.results import SMALLEST_EFFECT
from ablate.analysis.speedup import SpeedUp
from ablate.analysis.summary import ArmSummary
from ablate.formatting import count
from ablate.metrics import LOSS, Metric
from ablate.report.finding import describe_finding, rank_arms
from ablate.report.notation import (
    AXIS_NAMES,
    LISTED,
    capitalize,
    format_ratio,
    format_speedup,
    format_target,
    join_with_and,
    name_rest,
)

NAME_BASELINE = "name the arm to compare with, as in --baseline arm=NAME"


def state_result(
    differences: Sequence[Difference],
    rows: Sequence[SpeedUp],
    full_schedule: Sequence[SpeedUp],
    arms: Sequence[ArmSummary],
    fairness: Sequence[Fairness],
    axis: str,
    labels: Mapping[str, str],
    known: Sequence[str] = (),
    metric: Metric = LOSS,
    smallest: float | None = SMALLEST_EFFECT,
) -> tuple[str, str]:
    """The result, and its price and caveats.

    `rows` are at the headline's target; `rows` and `full_schedule` contain all axes of cost. `labels` maps arms to
    their names on the page. `known` lists caveats from the study's record. `smallest` is the smallest effect of
    interest.
    """
    main = [row for row in rows if row.axis == axis]
    ordered = rank_arms(differences, [row.arm for row in sorted(main, key=_rank, reverse=True)], metric)
    arms = [replace(arm, arm=labels[arm.arm]) for arm in arms]
    fairness = [replace(line, arm=labels[line.arm]) for line in fairness]
    by_arm: dict[str, dict[str, SpeedUp]] = {}
    for row in rows:
        renamed = replace(row, arm=labels[row.arm], baseline=labels[row.baseline])
        by_arm.setdefault(renamed.arm, {})[row.axis] = renamed
    main = [by_arm[labels[arm]][axis] for arm in ordered if axis in by_arm.get(labels[arm], {})]
    caveats = [*(["; ".join(known)] if known else []), *_list_caveats(main, arms, fairness)]
    if not main:
        advice = "add a level to the matrix" if len(arms) == 1 else NAME_BASELINE
        return _describe_uncompared(arms, metric), _write_sentences(caveats or [f"no effect can be shown: {advice}"])
    has_speeds = any(_is_comparable(row) for row in main)
    finding = describe_finding(differences, ordered, labels, metric, smallest) if differences or has_speeds else ""
    speed = ""
    if metric.has_curve:
        speed = _describe_one(main[0], axis, metric) if len(main) == 1 else _describe_many(main, axis, metric)
    named = {name for row in main for name in (row.arm, row.baseline)}
    if alone := [arm for arm in arms if arm.arm not in named]:
        speed += f" {_describe_uncompared(alone, metric, is_all=False)}"
        caveats.append(f"to compare all arms, {NAME_BASELINE}")
    costs = [
        *_describe_price(by_arm[main[0].arm], axis, arms),
        *_describe_full_schedules(full_schedule, axis, labels, ordered),
    ]
    return f"{finding} {speed}".strip(), _write_sentences([*costs, *caveats] or [_describe_unflagged(fairness)])


def _rank(row: SpeedUp) -> tuple[bool, float, float]:
    """A sort key: larger is better.

    An upper limit, for example of a run that diverged early, ranks below any measured speedup. Equal limits are ranked
    by their p-values.
    """
    value = row.ratio or row.low or row.high or 0.0
    return row.bound != "at_most" and value > 0, value, -1.0 if row.p_value is None else -row.p_value


def _is_comparable(row: SpeedUp) -> bool:
    return row.ratio is not None or row.bound not in (None, "not_determined")


def _describe_uncompared(arms: Sequence[ArmSummary], metric: Metric, *, is_all: bool = True) -> str:
    """The results of arms without a baseline; `is_all` if no other arm has one."""
    ended = [arm for arm in arms if arm.final_loss.mean is not None]
    who = "No arm has a" if is_all else f"{count(len(arms), 'arm')} {'has' if len(arms) == 1 else 'have'} no"
    if not is_all and not ended:
        return f"{who} baseline to be compared with, and no result yet."
    if not ended:
        return "No run has finished with an evaluation yet, so there is nothing to compare."
    first, *others = [f"{arm.final_loss.mean:.4f} ({count(arm.final_loss.n, 'seed')})" for arm in ended[:LISTED]]
    if is_all and len(arms) == 1:
        return f"The only arm, {ended[0].arm}, ends at a {metric.label} of {first}."
    values = [f"{ended[0].arm} ends at a {metric.label} of {first}"]
    values += [f"{arm.arm} at {value}" for arm, value in zip(ended[1:], others, strict=False)]
    return f"{who} baseline to be compared with: {join_with_and(values)}."


def _describe_one(row: SpeedUp, axis: str, metric: Metric) -> str:
    goal = format_target(row.target, metric).replace("the baseline", row.baseline)
    name, than = AXIS_NAMES[axis], f" as {row.baseline}" if isinstance(row.target, float) else ""
    if row.bound == "at_most":
        n_missed = row.n_pairs - row.n_reached
        missed = f"{n_missed} of {count(row.n_pairs, 'run')} never reached {goal}"
        reason = missed if n_missed else f"{row.baseline} is {metric.side} {goal} at its first evaluation"
        return f"In {name}, {row.arm} is at most {format_ratio(row.high)} as fast as {row.baseline}: {reason}."
    if row.bound == "at_least":
        return f"In {name}, {row.arm} reaches {goal} at least {format_ratio(row.low)} as fast{than}."
    if row.ratio is None:
        reason = f": {row.note}" if row.note else ""
        return f"This study cannot determine whether {row.arm} reaches {goal} in fewer {name}{reason}."
    start = f"In {name}, {row.arm} reaches {goal} {format_ratio(row.ratio)} as fast{than}"
    if row.low is None or row.high is None:
        return f"{start}, a number without an interval: {row.note.rpartition('no interval: ')[2]}."
    size = count(row.n_pairs, "unpaired run" if row.method.startswith("Welch") else "seed")
    return f"{start} (95 % interval {row.low:.2f} to {row.high:.2f}, {size})."


def _describe_many(rows: Sequence[SpeedUp], axis: str, metric: Metric) -> str:
    goal = format_target(rows[0].target, metric)
    if not any(map(_is_comparable, rows)):
        reason = f": {rows[0].note}" if rows[0].note else ""
        return f"None of the {len(rows)} arms can be compared in {AXIS_NAMES[axis]} to reach {goal}{reason}."
    listed = join_with_and([f"{row.arm} {format_speedup(row)}" for row in rows[:LISTED]] + name_rest(rows))
    how = " (unadjusted 95 % intervals)" if any(row.ratio is not None and row.low is not None for row in rows) else ""
    return f"Speedups in {AXIS_NAMES[axis]} to reach {goal}{how}: {listed}."


def _describe_price(axes: dict[str, SpeedUp], axis: str, arms: Sequence[ArmSummary]) -> Iterator[str]:
    """The speedup of the first arm in seconds; in steps if the headline is in seconds."""
    other = "steps" if axis in ("seconds", "gpu_seconds") else "seconds"
    row, steps, seconds = axes.get(other), axes.get("steps"), axes.get("seconds")
    if row is None:
        return
    if not _is_comparable(row):
        if row.note and axes[axis].ratio is not None:
            yield f"{AXIS_NAMES[other]} cannot be compared ({row.note.rpartition(f'{other}: ')[2]})"
        return
    text = f"in {AXIS_NAMES[other]}, {row.arm} {_describe_speed(row)}"
    step_ratio = next(arm.step_ratio for arm in arms if arm.arm == row.arm)
    if steps and seconds and steps.ratio and seconds.ratio and step_ratio:
        times = format_ratio(step_ratio)
        text += f": a step takes {'' if times == '1.00x' else f'{times} '}as long as the baseline's"
    yield text


def _describe_speed(row: SpeedUp) -> str:
    """`format_speedup` as the end of a sentence."""
    if not _is_comparable(row):
        return "cannot be compared"
    value, gap, interval = format_speedup(row).partition("x")
    return f"is {value}{gap} as fast{interval}"


def _describe_full_schedules(
    rows: Sequence[SpeedUp], axis: str, labels: Mapping[str, str], ordered: Sequence[str]
) -> Iterator[str]:
    """The number to quote if horizons vary, because it compares no run in the middle of its schedule.

    The best is the first of `ordered`, which are the arms by their verdicts.
    """
    mine = [row for row in rows if row.axis == axis]
    if mine:
        best, chosen = (
            min(mine, key=lambda row: ordered.index(row.arm)),
            f"; it is the best of {len(mine)} arms" if len(mine) > 1 else "",
        )
        yield f"between full schedules (the number to quote), {labels[best.arm]} {_describe_speed(best)}{chosen}"


def _list_caveats(rows: Sequence[SpeedUp], arms: Sequence[ArmSummary], fairness: Sequence[Fairness]) -> Iterator[str]:
    n_unfinished, n_failed = sum(arm.n_unfinished for arm in arms), sum(arm.n_failed for arm in arms)
    n_diverged, n_stopped = sum(arm.n_diverged for arm in arms), sum(arm.n_stopped for arm in arms)
    n_incomplete, n_repeated = sum(arm.n_incomplete for arm in arms), sum(arm.n_repeated for arm in arms)
    left_out = [
        *([count(n_unfinished, "unfinished run")] if n_unfinished else []),
        *([count(n_failed, "failed run")] if n_failed else []),
        *([f"{count(n_incomplete, 'run')} with an incomplete curve"] if n_incomplete else []),
        *([f"{count(n_repeated, 'run')} with the numbers of another seed"] if n_repeated else []),
    ]
    if left_out:
        is_one = n_unfinished + n_failed + n_incomplete + n_repeated == 1
        yield f"{join_with_and(left_out)} {'is' if is_one else 'are'} left out"
    ended_early = [
        *([f"{count(n_diverged, 'run')} diverged"] if n_diverged else []),
        *([f"{count(n_stopped, 'run')} stopped before the end of the budget"] if n_stopped else []),
    ]
    if ended_early:
        yield join_with_and(ended_early)
    few = [row.n_pairs for row in rows if row.ratio is not None]
    if few and min(few) < 2 and len(rows) > 1:
        yield "one seed gives no interval"
    flagged = [line for line in fairness if line.flags]
    if len(flagged) == 1:
        yield f"fairness flags of {flagged[0].arm}: {'; '.join(flagged[0].flags)}"
    elif flagged:
        yield f"{len(flagged)} arms have fairness flags"


def _describe_unflagged(fairness: Sequence[Fairness]) -> str:
    """Claims only what was compared: an unknown size or condition cannot be flagged."""
    known: dict[str, list[object]] = {
        "parameters": [line.params_ratio for line in fairness],
        "FLOPs": [line.flops_ratio for line in fairness],
        "tokens": [line.horizon_tokens for line in fairness],
        "precision": [None if line.precision == UNKNOWN else line.precision for line in fairness],
    }
    unknown = [name for name, values in known.items() if None in values]
    if not unknown:
        return "nothing was flagged: all runs finished, and the arms are alike in size and conditions"
    reason = "because they are not known for every arm"
    return f"nothing was flagged: all runs finished; {join_with_and(unknown)} were not compared, {reason}"


def _write_sentences(parts: Sequence[str]) -> str:
    return " ".join(f"{capitalize(part)}." for part in parts)
