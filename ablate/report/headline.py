"""The answer to a study's question, made from the numbers: the finding, and its price and caveats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from ablate.analysis.fairness import UNKNOWN, Fairness
from ablate.analysis.speedup import SpeedUp
from ablate.analysis.summary import ArmSummary
from ablate.formatting import count
from ablate.report.notation import (
    AXIS_NAMES,
    HOW_JUDGED,
    format_p_value,
    format_ratio,
    format_speedup,
    format_target,
    join_with_and,
)

SIGNIFICANT = 0.05
LISTED = 4

Verdict = Literal["faster", "slower", "undecided"]


def state_result(
    rows: Sequence[SpeedUp],
    full_schedule: Sequence[SpeedUp],
    arms: Sequence[ArmSummary],
    fairness: Sequence[Fairness],
    axis: str,
    labels: Mapping[str, str],
    known: Sequence[str] = (),
) -> tuple[str, str]:
    """Two sentences from the rows of the headline's target and of full schedules (all axes of both).

    `labels` is what each arm is called, `known` the caveats of the study's record.
    """
    arms = [replace(arm, arm=labels[arm.arm]) for arm in arms]
    fairness = [replace(line, arm=labels[line.arm]) for line in fairness]
    by_arm: dict[str, dict[str, SpeedUp]] = {}
    for row in rows:
        renamed = replace(row, arm=labels[row.arm], baseline=labels[row.baseline])
        by_arm.setdefault(renamed.arm, {})[row.axis] = renamed
    main = sorted((axes[axis] for axes in by_arm.values() if axis in axes), key=_rank, reverse=True)
    caveats = [*known, *_list_caveats(main, arms, fairness)]
    if not main:
        advice = "add a level to the matrix" if len(arms) == 1 else "name a baseline that they share"
        return _describe_alone(arms), _sentence(caveats) if caveats else f"No effect can be shown: {advice}."
    caveats = [*_describe_full_schedules(full_schedule, axis, labels), *caveats]
    finding = _describe_one(main[0], axis) if len(main) == 1 else _describe_many(main, axis)
    parts = [*_describe_price(by_arm[main[0].arm], axis, arms), *caveats]
    return finding, _sentence(parts or [_describe_unflagged(fairness)])


def judge_speedup(row: SpeedUp) -> Verdict:
    """faster or slower where Holm's p is below 0.05 and the interval, or the bound, on one side of 1; else undecided.

    One seed has no p-value and decides nothing.
    """
    if row.p_holm is None or row.p_holm >= SIGNIFICANT:
        return "undecided"
    if row.low is not None and row.low >= 1:
        return "faster"
    return "slower" if row.high is not None and row.high <= 1 else "undecided"


def _rank(row: SpeedUp) -> tuple[int, bool, float, float]:
    """Larger is better. An upper limit, as of a run that diverged early, is worth less than any speed-up seen; of equal
    limits the surer is the better one.
    """
    value = row.ratio or row.low or row.high or 0.0
    verdict = {"faster": 2, "undecided": 1, "slower": 0}[judge_speedup(row)] if value else -1
    return verdict, row.bound != "at_most", value, -1.0 if row.p_value is None else -row.p_value


def _describe_alone(arms: Sequence[ArmSummary]) -> str:
    ended = [arm for arm in arms if arm.final_loss.mean is not None]
    if not ended:
        return "No run has finished with an evaluation yet, so there is nothing to compare."
    first, *others = [f"{arm.final_loss.mean:.4f} ({count(arm.final_loss.n, 'seed')})" for arm in ended[:LISTED]]
    if len(arms) == 1:
        return f"There is one arm, {ended[0].arm}; it ends at a validation loss of {first}."
    losses = [f"{ended[0].arm} ends at a validation loss of {first}"]
    losses += [f"{arm.arm} at {loss}" for arm, loss in zip(ended[1:], others, strict=False)]
    return f"No arm has a baseline to be compared with: {join_with_and(losses)}."


def _describe_one(row: SpeedUp, axis: str) -> str:
    goal = format_target(row.target).replace("the baseline", row.baseline)
    name, than = AXIS_NAMES[axis], f" as {row.baseline}" if isinstance(row.target, float) else ""
    if row.bound == "at_most":
        n_missed = row.n_pairs - row.n_reached
        missed = f"{n_missed} of {count(row.n_pairs, 'run')} never reached {goal}"
        reason = missed if n_missed else f"{row.baseline} is below {goal} at its first evaluation"
        return (
            f"In {name}, {row.arm} is at most {format_ratio(row.high)} as fast as {row.baseline}: "
            f"{reason}, {_VERDICTS[judge_speedup(row)]}."
        )
    if row.bound == "at_least":
        speed = f"at least {format_ratio(row.low)} as fast{than}"
        return f"In {name}, {row.arm} reaches {goal} {speed}, {_VERDICTS[judge_speedup(row)]}."
    if row.ratio is None:
        reason = f": {row.note}" if row.note else ""
        return f"Whether {row.arm} reaches {goal} in fewer {name} is not determined{reason}."
    start = f"In {name}, {row.arm} reaches {goal} {format_ratio(row.ratio)} as fast{than}"
    if row.low is None or row.high is None:
        return f"{start}, a number without an interval: {row.note.rpartition('no interval: ')[2]}."
    size = count(row.n_pairs, "unpaired run" if row.method.startswith("Welch") else "seed")
    certainty = f"95 % interval {row.low:.2f} to {row.high:.2f}, {size}, p {_equals(format_p_value(row.p_holm))}"
    return f"{start} ({certainty}), {_VERDICTS[judge_speedup(row)]}."


_VERDICTS: dict[Verdict, str] = {
    "faster": "a clear speed-up",
    "slower": "a clear slow-down",
    "undecided": "so the study does not decide whether it helps",
}


def _describe_many(rows: Sequence[SpeedUp], axis: str) -> str:
    goal = format_target(rows[0].target)
    if all(_rank(row)[0] < 0 for row in rows):
        reason = f": {rows[0].note}" if rows[0].note else ""
        return f"None of {len(rows)} arms can be compared in {AXIS_NAMES[axis]} to {goal}{reason}."
    verdicts = [judge_speedup(row) for row in rows]
    listed = [f"{row.arm} {format_speedup(row)}" for row in rows[:LISTED]]
    rest = [f"{len(rows) - LISTED} more in the table"] if len(rows) > LISTED else []
    has_interval = any(row.ratio is not None and row.low is not None for row in rows)
    how = f" ({HOW_JUDGED})" if has_interval else ""
    return f"In {AXIS_NAMES[axis]} to {goal}, {_count_verdicts(verdicts)}{how}: {join_with_and([*listed, *rest])}."


def _count_verdicts(verdicts: Sequence[Verdict]) -> str:
    """`both arms are undecided`; `2 of 3 arms are clearly faster than the baseline and 1 is clearly slower`."""
    counts = [(word, n) for verdict, word in _MANY_WORDS.items() if (n := verdicts.count(verdict))]
    (word, n), *others = counts
    whole = word if word == _MANY_WORDS["undecided"] else f"{word} than the baseline"
    if not others:
        return f"{'both' if n == 2 else f'all {n}'} arms are {whole}"
    first = f"{n} of {len(verdicts)} arms {'is' if n == 1 else 'are'} {whole}"
    return join_with_and([first, *(f"{n} {'is' if n == 1 else 'are'} {word}" for word, n in others)])


_MANY_WORDS: dict[Verdict, str] = {"faster": "clearly faster", "slower": "clearly slower", "undecided": "undecided"}


def _describe_price(axes: dict[str, SpeedUp], axis: str, arms: Sequence[ArmSummary]) -> list[str]:
    """What the first arm's speed-up becomes on the clock."""
    other = "steps" if axis in ("seconds", "gpu_seconds") else "seconds"
    row, steps, seconds = axes.get(other), axes.get("steps"), axes.get("seconds")
    if row is None:
        return []
    if row.ratio is None and row.bound in (None, "not_determined"):
        return (
            [f"{AXIS_NAMES[other]} cannot be compared ({row.note.rpartition(f'{other}: ')[2]})"]
            if row.note and axes[axis].ratio is not None
            else []
        )
    text = f"in {AXIS_NAMES[other]}, {row.arm} {_say_speed(row)}"
    step_ratio = next(arm.step_ratio for arm in arms if arm.arm == row.arm)
    if steps and seconds and steps.ratio and seconds.ratio and step_ratio:
        times = format_ratio(step_ratio)
        text += f": a step takes {'' if times == '1.00x' else f'{times} '}as long as the baseline's"
    return [text]


def _say_speed(row: SpeedUp) -> str:
    """`format_speedup` as the end of a sentence."""
    if row.ratio is None and row.bound in (None, "not_determined"):
        return "cannot be compared"
    value, gap, interval = format_speedup(row).partition("x")
    return f"is {value}{gap} as fast{interval}"


def _describe_full_schedules(rows: Sequence[SpeedUp], axis: str, labels: Mapping[str, str]) -> list[str]:
    """The number to quote where horizons vary: no learning rate is caught half way in it."""
    mine = [row for row in rows if row.axis == axis]
    if not mine:
        return []
    best, chosen = max(mine, key=_rank), f", the best of {len(mine)} arms" if len(mine) > 1 else ""
    return [f"between full schedules, the number to quote, {labels[best.arm]} {_say_speed(best)}{chosen}"]


def _list_caveats(rows: Sequence[SpeedUp], arms: Sequence[ArmSummary], fairness: Sequence[Fairness]) -> list[str]:
    n_unfinished, n_failed = sum(arm.n_unfinished for arm in arms), sum(arm.n_failed for arm in arms)
    n_diverged, n_stopped = sum(arm.n_diverged for arm in arms), sum(arm.n_stopped for arm in arms)
    n_incomplete = sum(arm.n_incomplete for arm in arms)
    few = [row.n_pairs for row in rows if row.ratio is not None]
    caveats = [
        f"{count(n_unfinished, 'run')} not finished and left out" if n_unfinished else "",
        f"{count(n_failed, 'run')} failed and left out" if n_failed else "",
        f"{count(n_incomplete, 'run')} with an incomplete curve left out" if n_incomplete else "",
        f"{count(n_diverged, 'run')} diverged" if n_diverged else "",
        f"{count(n_stopped, 'run')} stopped before the end of the budget" if n_stopped else "",
        "one seed gives no interval" if few and min(few) < 2 and len(rows) > 1 else "",
    ]
    flagged = [line for line in fairness if line.flags]
    if len(flagged) == 1:
        caveats.append(f"{flagged[0].arm}: {'; '.join(flagged[0].flags)}")
    elif flagged:
        caveats.append(f"{len(flagged)} arms carry fairness flags")
    return [caveat for caveat in caveats if caveat]


def _describe_unflagged(fairness: Sequence[Fairness]) -> str:
    """No more than was compared: what is not known cannot be flagged."""
    known: dict[str, list[object]] = {
        "parameters": [line.params_ratio for line in fairness],
        "FLOPs": [line.flops_ratio for line in fairness],
        "tokens": [line.horizon_tokens for line in fairness],
        "precision": [None if line.precision == UNKNOWN else line.precision for line in fairness],
    }
    unknown = [name for name, values in known.items() if None in values]
    if not unknown:
        return "nothing was flagged: all runs finished, and sizes and conditions are alike"
    return f"nothing was flagged: all runs finished; not known for every arm, so not compared: {join_with_and(unknown)}"


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _equals(text: str) -> str:
    return text if text.startswith("<") else f"= {text}"
