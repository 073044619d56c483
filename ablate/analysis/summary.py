"""One row per arm: how its runs ended, its final loss, and its cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ablate.analysis.comparison import find_clock_obstacle
from ablate.analysis.curve_columns import Floats
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve, device_of
from ablate.formatting import name_error
from ablate.metrics import Metric
from ablate.tracking.values import Value


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (ddof 1; None below two values) over `n` runs."""

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class ArmSummary:
    """An arm: its sizes, the number of its runs by how they ended, and means over its whole runs.

    `final_loss` is the final value of the study's metric: for a language model, its validation loss in nats per token.
    `other_metrics` has those of the other metrics. `step_s` is the time of a training step in seconds, without
    evaluation, checkpoints and compilation. `step_ratio` is that time over the baseline's, on seeds that both have, and
    None if clock times cannot be compared. `tokens_per_s` is the tokens per step over the mean of `step_s`, and
    `tflops_per_s` the achieved training TFLOP/s at that rate. `peak_memory_bytes` is the largest of the runs. A size
    that is not known is None. `n_repeated` runs are left out because they have the numbers of another seed.
    """

    arm: str
    axes: Mapping[str, Value]
    within: Mapping[str, Value]
    baseline: str
    n_params: int | None
    flops_per_token: int | None
    n_steps: int | None
    n_tokens: int | None
    n_runs: int
    n_finished: int
    n_diverged: int
    n_stopped: int
    n_failed: int
    n_unfinished: int
    n_incomplete: int
    final_loss: Spread
    step_s: Spread
    step_ratio: float | None
    tokens_per_s: float | None
    tflops_per_s: float | None
    peak_memory_bytes: int | None
    device: str
    n_repeated: int = 0
    other_metrics: Mapping[str, Spread] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        return self.arm == self.baseline

    def to_dict(self) -> dict[str, Any]:
        content = asdict(self) | {"axes": dict(self.axes), "within": dict(self.within)}
        for rare in ("other_metrics", "n_repeated"):
            if not content[rare]:
                del content[rare]
        return content | {"is_baseline": self.is_baseline}


@dataclass(frozen=True)
class Mishap:
    """A run that did not finish its budget, or whose curve is damaged, with its state and the step where it ended.

    `n_steps` is 0 if the budget is not known.
    """

    arm: str
    seed: int
    run_id: str
    state: str
    step: int
    n_steps: int
    error: str

    @property
    def reason(self) -> str:
        """The error in one line."""
        return name_error(self.error)


def summarize_arms(results: Results, measured_step_s: Mapping[str, float] | None = None) -> tuple[ArmSummary, ...]:
    """Summarize every arm. `measured_step_s` is used as in `speed_ups`, if clock times cannot be compared."""
    return tuple(_summarize(results, arm, measured_step_s or {}) for arm in results.arms)


def find_mishaps(results: Results) -> tuple[Mishap, ...]:
    """Find every run that is not whole, or whose curve has lines that were skipped, in the order of the study."""
    return tuple(
        Mishap(
            arm=run.arm,
            seed=run.seed,
            run_id=run.run_id,
            state=run.state,
            step=run.last_step,
            n_steps=results.arms[run.arm].n_steps,
            error=_explain(run),
        )
        for run in results.runs
        if not run.is_whole or run.n_passed_over
    )


def _explain(run: RunCurve) -> str:
    """Describe the damage of a run's curve, and its error."""
    n = run.n_passed_over
    lines = f"{n} {'line' if n == 1 else 'lines'} of curve.jsonl passed over: not a record" if n else ""
    damage = "; ".join(filter(None, (run.flaw or run.unread, lines)))
    return "\n".join(filter(None, (damage, run.status.error)))


def describe_device(run: RunCurve) -> str:
    """Name the device of a run, its share of it, and how many runs shared it."""
    device = device_of(run.manifest)
    parts = [str(device.get("name") or device.get("kind") or "unknown device")]
    if run.n_gpus:
        parts.append(f"{run.n_gpus:g} GPU")
    elif threads := run.manifest.get("threads"):
        parts.append(f"{threads} threads" if threads != 1 else "1 thread")
    if run.n_sharing != 1:
        parts.append(f"shared by {run.n_sharing} runs")
    return ", ".join(parts)


def spread_of(values: Floats) -> Spread:
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if known.size else None
    return Spread(mean, float(known.std(ddof=1)) if known.size > 1 else None, int(known.size))


def _summarize(results: Results, name: str, measured_step_s: Mapping[str, float]) -> ArmSummary:
    arm, runs = results.arms[name], results.runs_of(name)
    whole = [run for run in runs if run.is_whole]
    states = Counter(run.state for run in runs)
    step_s = _average_step(runs)
    tokens_per_s = arm.n_tokens / arm.n_steps / step_s.mean if arm.n_tokens and arm.n_steps and step_s.mean else None
    flops_per_s = tokens_per_s * arm.flops_per_token if tokens_per_s and arm.flops_per_token else None
    memory = [size for run in runs if isinstance(size := run.manifest.get("peak_memory_bytes"), int)]
    return ArmSummary(
        arm=name,
        axes=arm.axes,
        within=arm.within,
        baseline=arm.baseline,
        n_params=arm.n_params or None,
        flops_per_token=arm.flops_per_token or None,
        n_steps=arm.n_steps or None,
        n_tokens=arm.n_tokens or None,
        n_runs=len(runs),
        n_finished=len(whole),
        n_diverged=states["diverged"],
        n_stopped=states["stopped early"],
        n_failed=states["failed"],
        n_unfinished=states["queued"] + states["running"],
        n_incomplete=states["incomplete curve"],
        n_repeated=states["repeated"],
        final_loss=_final_spread(runs, results.metric),
        other_metrics={metric.name: _final_spread(runs, metric) for metric in results.other_metrics},
        step_s=step_s,
        step_ratio=_compare_steps(results, name, measured_step_s),
        tokens_per_s=tokens_per_s,
        tflops_per_s=flops_per_s / 1e12 if flops_per_s else None,
        peak_memory_bytes=max(memory, default=None),
        device="; ".join(sorted({describe_device(run) for run in runs if run.has_ended})),
    )


def _final_spread(runs: Sequence[RunCurve], metric: Metric) -> Spread:
    return spread_of(np.array([run.final_value(metric) for run in runs], np.float64))


def _average_step(runs: Sequence[RunCurve]) -> Spread:
    return spread_of(np.array([_seconds_per_step(run) for run in runs if run.is_whole], np.float64))


def _compare_steps(results: Results, arm: str, measured_step_s: Mapping[str, float]) -> float | None:
    names = (arm, results.baseline_of(arm))
    runs, base_runs = ([run for run in results.runs_of(name) if run.is_whole] for name in names)
    if shared := {run.seed for run in runs} & {run.seed for run in base_runs}:
        runs, base_runs = ([run for run in group if run.seed in shared] for group in (runs, base_runs))
    if find_clock_obstacle([*runs, *base_runs]):
        mine, base = map(measured_step_s.get, names)
    else:
        mine, base = _average_step(runs).mean, _average_step(base_runs).mean
    return mine / base if mine and base else None


def _seconds_per_step(run: RunCurve) -> float:
    """Average over the whole curve. `wall_s` is only training time, summed over resumes."""
    steps, seconds = run.columns["step"], run.columns["wall_s"]
    return float(seconds[-1] / steps[-1]) if steps.size and steps[-1] > 0 else float("nan")
