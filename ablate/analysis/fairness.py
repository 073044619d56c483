"""The fairness panel: everything that has to be equal, or known, before one arm can be called better than another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ablate.analysis.comparison import compare, first_crossing, sharing_of, took_turns
from ablate.analysis.convergence import Reach, cost_at, find_share
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve
from ablate.analysis.summary import spread_of
from ablate.metrics import Metric
from ablate.tracking.study_record import ArmRecord

SIZE_LIMIT = 0.02
"""Relative difference in parameters or FLOPs per token beyond which an arm is flagged."""

UNKNOWN = "unknown"

ELSEWHERE = frozenset(
    {"steps", "batch_size", "schedule", "precision", "log_every", "eval_every", "checkpoint_every", "micro_batch_size"}
)
"""Training settings that are not part of a recipe: they have their own columns in the panel, or are bookkeeping."""

PLATEAU = 0.99
"""Share of the peak learning rate above which decay has not begun. Flat parts of schedules vary by less than 1 %."""


EARLY = 0.9
"""A baseline is flagged if it first reaches its final loss before this share of its budget."""


@dataclass(frozen=True)
class Fairness:
    """An arm beside its baseline. Ratios are arm over baseline, and None if a size is not known.

    `tuning_trials` counts the settings that were tried for the arm, None if it was not recorded. `tuning` lists the
    values, with the best. `crossing_share` is the place in its schedule (0 to 1) where the arm crossed the baseline's
    final loss, and `learning_rate_share` the learning rate there over its peak. Both are None if it did not cross.
    `recipe` holds the peak learning rate and the training settings in which the study's arms differ. `flags` are
    sentences.
    """

    arm: str
    baseline: str
    params_ratio: float | None
    flops_ratio: float | None
    precision: str
    schedule: str
    attention_backend: str
    tuning_trials: int | None
    tuning: str
    horizon_tokens: int | None
    crossing_share: float | None
    learning_rate_share: float | None
    recipe: str
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_fairness(results: Results) -> tuple[Fairness, ...]:
    """Compute one row per arm, baselines included."""
    recipe = _list_recipe(results.runs)
    return tuple(_check(results, arm, recipe) for arm in results.arms)


def _check(results: Results, name: str, recipe: Sequence[str]) -> Fairness:
    arm, base = results.arms[name], results.arms[results.baseline_of(name)]
    runs, base_runs = results.runs_of(name), results.runs_of(base.arm)
    reaches = [r for r in compare(results, name, "final").arm if r.side == "reached"] if name != base.arm else []
    crossing = spread_of(np.array([_schedule_share(reach) for reach in reaches], np.float64)).mean
    rate = spread_of(np.array([_learning_rate_share(reach) for reach in reaches], np.float64)).mean
    precision, base_precision = (_collect(_precision, group) for group in (runs, base_runs))
    backend, base_backend = (_collect(_backend, group) for group in (runs, base_runs))
    flags = [
        _size_flag("parameters", arm.n_params, base.n_params),
        _size_flag("FLOPs per token", arm.flops_per_token, base.flops_per_token),
    ]
    flags.append(_horizon_flag(arm, base, len({run.step_unit for run in (*runs, *base_runs)}) == 1))
    data, base_data = (_collect(_data_hash, group) for group in (runs, base_runs))
    pairs = (
        ("precision", precision, base_precision),
        ("attention backend", backend, base_backend),
        ("data", data, base_data),
    )
    flags += [f"{what} differs: {a} against {b}" for what, a, b in pairs if a != b and UNKNOWN not in (a, b)]
    ended = [run for run in (*runs, *base_runs) if run.has_ended]
    if len({sharing_of(run) for run in ended}) > 1:
        flags.append("clock times are not comparable: different devices, or shared in different ways")
    elif any(map(took_turns, ended)):
        flags.append("clock times are not comparable: the runs took turns at a GPU")
    if name == base.arm and name in {results.baseline_of(other) for other in results.compared_arms}:
        flags.append(_plateau_flag(base_runs, results.metric))
    tuning, base_tuning = _tuning_of(results, name), _tuning_of(results, base.arm)
    trials, base_trials = tuning.get("trials"), base_tuning.get("trials")
    if trials != base_trials:
        flags.append(f"tuned with {trials or 'no'} trials, its baseline with {base_trials or 'none'}")
    flags += [f"its best {path} lies at the edge of {values}" for path, values in _edges(tuning)]
    if reaches and any(_is_before_decay(reach) for reach in reaches):
        flags.append(f"crosses its baseline's final {results.metric.short} before its learning rate has begun to decay")
    return Fairness(
        arm=name,
        baseline=base.arm,
        params_ratio=_divide(arm.n_params, base.n_params),
        flops_ratio=_divide(arm.flops_per_token, base.flops_per_token),
        precision=precision,
        schedule=_collect(_schedule, runs),
        attention_backend=backend,
        tuning_trials=trials if isinstance(trials, int) else _count_trials(runs),
        tuning="; ".join(_describe_tuning(tuning)),
        horizon_tokens=arm.n_tokens,
        crossing_share=crossing,
        learning_rate_share=rate,
        recipe=_collect(lambda run: _write_settings(run, recipe), runs),
        flags=tuple(flag for flag in flags if flag),
    )


def _divide(mine: int | None, base: int | None) -> float | None:
    return mine / base if mine and base else None


def _horizon_flag(arm: ArmRecord, base: ArmRecord, is_one_unit: bool) -> str:
    """Flag different budgets: in tokens, or in steps if tokens are unknown and all steps have one unit."""
    if arm.n_tokens and base.n_tokens:
        is_same = arm.n_tokens == base.n_tokens
        return "" if is_same else f"trained on {arm.n_tokens:,} tokens, its baseline on {base.n_tokens:,}"
    if (
        not is_one_unit
        or not (arm.n_steps and base.n_steps)
        or abs(arm.n_steps - base.n_steps) <= SIZE_LIMIT * base.n_steps
    ):
        return ""
    return f"trained for {arm.n_steps:,} steps, its baseline for {base.n_steps:,}"


def _size_flag(what: str, mine: int | None, base: int | None) -> str:
    if not mine or not base or abs(mine - base) <= SIZE_LIMIT * base:
        return ""
    return f"{100 * abs(mine / base - 1):.1f} % {'more' if mine > base else 'fewer'} {what} than its baseline"


def _plateau_flag(runs: Iterable[RunCurve], metric: Metric) -> str:
    """Flag a baseline that is at its final loss long before the end of its budget. Its curve is flat or gets worse.

    Its cost is still its whole budget, so even an arm that is no better seems faster.
    """
    whole = [run for run in runs if run.is_whole and run.has_ended]
    share = first_crossing(Reach(run, "reached", find_share(run.cost_of_evaluations("steps"), 1.0)) for run in whole)
    if share is None or share >= EARLY:
        return ""
    return (
        f"already at its final {metric.short} after {100 * share:.0f} % of its budget, because its curve is flat or "
        f"{'rises' if metric.direction == 'lower' else 'falls'}: "
        "the rest of the budget counts as a gain of every arm"
    )


def _schedule_share(reach: Reach) -> float:
    """Return the share of its planned steps at which the run crossed, 0 to 1."""
    assert reach.position is not None
    return cost_at(reach.run.cost_of_evaluations("steps"), reach.position) / reach.run.n_steps


def _learning_rate_share(reach: Reach) -> float:
    steps, rates = reach.run.columns["step"], reach.run.columns["learning_rate"]
    known = np.isfinite(rates)
    if not known.any() or rates[known].max() <= 0:
        return float("nan")
    at = np.interp(_schedule_share(reach) * reach.run.n_steps, steps[known], rates[known])
    return float(at / rates[known].max())


def _is_before_decay(reach: Reach) -> bool:
    """Tell whether the run crossed before its schedule decays. Rankings flip during decay: arXiv 2509.02046."""
    steps, rates = reach.run.columns["step"], reach.run.columns["learning_rate"]
    known = np.isfinite(rates)
    if not known.any() or rates[known][-1] > PLATEAU * rates[known].max():
        return False
    last_flat = steps[known][rates[known] >= PLATEAU * rates[known].max()][-1]
    return bool(_schedule_share(reach) * reach.run.n_steps <= last_flat)


def _collect(read: Any, runs: Iterable[RunCurve]) -> str:
    return ", ".join(sorted({read(run) for run in runs if run.has_ended})) or UNKNOWN


def _train_of(run: RunCurve) -> Mapping[str, Any]:
    train = run.config.get("train")
    return train if isinstance(train, Mapping) else {}


def _list_recipe(runs: Iterable[RunCurve]) -> tuple[str, ...]:
    """List the learning rate and the training settings that differ between runs."""
    trains = [train for run in runs if (train := _train_of(run))]
    names = dict.fromkeys(name for train in trains for name in train)
    varied = (name for name in names if len({str(train.get(name)) for train in trains}) > 1)
    return tuple(dict.fromkeys(("learning_rate", *(name for name in varied if name not in ELSEWHERE))))


def _write_settings(run: RunCurve, names: Iterable[str]) -> str:
    values = {name: value for name in names if (value := _train_of(run).get(name)) is not None}
    written = ((name, f"{value:g}" if isinstance(value, float) else value) for name, value in values.items())
    return ", ".join(f"{name} {value}" for name, value in written) or UNKNOWN


def _precision(run: RunCurve) -> str:
    return str(run.manifest.get("precision") or _train_of(run).get("precision") or UNKNOWN)


def _schedule(run: RunCurve) -> str:
    return str(_train_of(run).get("schedule") or UNKNOWN)


def _backend(run: RunCurve) -> str:
    report = run.manifest.get("attention")
    if isinstance(report, Mapping) and "calls no kernel" in str(report.get("reason")):
        return "its own code"
    return str(run.manifest.get("attention_backend") or UNKNOWN)


def _data_hash(run: RunCurve) -> str:
    return str(run.manifest.get("data_hash") or UNKNOWN)[:12]


def _tuning_of(results: Results, arm: str) -> Mapping[str, Any]:
    """Return the tuning of an arm from the study's record; empty if the record has none that can be read."""
    arms = results.record.tuning.get("arms")
    found = arms.get(arm) if isinstance(arms, Mapping) else None
    if not isinstance(found, Mapping) or not all(isinstance(found.get(key), Mapping) for key in ("space", "best")):
        return {}
    return found


def _describe_tuning(tuning: Mapping[str, Any]) -> Iterator[str]:
    for path, values in tuning.get("space", {}).items():
        best = tuning["best"].get(path)
        yield f"{path} of {values}" + (f": {best}" if best is not None else "")


def _edges(tuning: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    at_edge = tuning.get("at_edge", ())
    for path in at_edge if isinstance(at_edge, list | tuple) else ():
        if isinstance(path, str) and path in tuning["space"]:
            yield path, str(tuning["space"][path])


def _count_trials(runs: Iterable[RunCurve]) -> int | None:
    counts = [n for run in runs if isinstance(n := run.manifest.get("tuning_trials"), int)]
    return max(counts, default=None)
