"""What the verbs that look at results print: `status`, `logs`, `power`, `generate` and `evaluate`."""

from __future__ import annotations

from typing import Any

from ablate.cli.outputs.base import Output, State


class RunState(Output):
    """A run of a study. One more key has the metric's name, such as `val_loss`, and its last value or null."""

    run_id: str
    """The run's id."""
    arm: str
    """Name of the arm."""
    seed: int
    """Its seed."""
    state: State
    """queued, running, finished, diverged, failed, stopped early, interrupted or stale."""
    step: int
    """The last step."""
    n_steps: int
    """Planned steps; 0 if unknown."""
    took_s: float
    """Seconds of training so far."""
    error: str
    """Traceback of a failed run, otherwise empty."""
    notes: tuple[str, ...]
    """Remarks about the run."""
    verdict: str | None = None
    """Only with `until: decided`: the verdict of the last look at its arm; null before the first, and for baselines."""
    n_seeds: int | None = None
    """Only with `until: decided`: the seeds by which its arm was judged last."""


class ListedStudy(Output):
    """A study in the list of all."""

    study: str
    """Name of the study."""
    folder: str
    """Its folder."""
    question: str
    """What it asks."""
    states: dict[State, int]
    """State to number of runs."""
    is_training: bool
    """True if an `ablate run` works on it."""
    error: str
    """Why its record cannot be read, otherwise empty."""


class RunLog(Output):
    """The state, notes and error of a run."""

    run_id: str
    """The run's id."""
    study: str
    """Name of the study."""
    arm: str
    """Name of the arm."""
    seed: int
    """Its seed."""
    folder: str
    """Folder of the run."""
    state: State
    """As in `status`."""
    step: int
    """The last step."""
    n_steps: int
    """Planned steps; 0 if unknown."""
    took_s: float
    """Seconds of training so far."""
    memory_bytes: int
    """Peak memory; 0 if unknown."""
    worker: str
    """Host and process that train or trained it."""
    weights: str
    """What is wrong with the weights of a finished run; empty if nothing is."""
    output: str
    """File with the output of a program; otherwise empty."""
    notes: tuple[str, ...]
    """Remarks about the run."""
    curve: tuple[dict[str, Any], ...]
    """The last `--lines` records of the curve, oldest first."""
    error: str
    """Traceback of a failed run, otherwise empty."""


class ArmPower(Output):
    """The differences that the seeds of an arm can detect."""

    arm: str
    """Name of the arm."""
    baseline: str
    """Name of its baseline."""
    n_seeds: int
    """Finished pairs of runs; with `until: decided`, the seeds of the arm's last look."""
    sd: float
    """Standard deviation of a paired difference, in the metric's unit."""
    detectable: float
    """Difference that these seeds find with the power asked for."""
    seeds_needed: int | None
    """Seeds that find the effect asked for; null if it takes too many. With `until: decided`, the smallest
    `at_most`."""


class Continuation(Output):
    """A continued prompt."""

    run: str
    """Folder of the run."""
    prompt: str
    """The prompt."""
    text: str
    """The prompt and its continuation."""


class EvaluatedArm(Output):
    """The result of an arm in one metric of an evaluation, and its difference from the baseline's."""

    evaluation: str
    """The evaluation with its knobs."""
    metric: str
    """Name of the metric."""
    arm: str
    """Name of the arm."""
    baseline: str
    """Name of its baseline."""
    within: dict[str, Any]
    """The cell, such as the number of pairs or the depth of a needle."""
    mean: float | None
    """Mean over runs; null if the cell could not be measured."""
    low: float | None
    """Lower end of the 95 % interval over seeds."""
    high: float | None
    """Upper end of the interval."""
    n: int
    """Runs that were measured."""
    n_items: int
    """Items per run."""
    item_error: float | None
    """Standard error over the items of one run."""
    chance: float | None
    """Level of chance; null if guessing has no defined score."""
    is_at_chance: bool | None
    """Whether the result could be chance; null if this is not known."""
    direction: str | None
    """lower or higher, whichever is better; null if neither is."""
    difference: float | None
    """Arm minus baseline, paired by seed; for a factor, such as a saving, the ratio of arm to baseline."""
    difference_low: float | None
    """Lower end of its 95 % interval, not adjusted for other arms."""
    difference_high: float | None
    """Upper end of that interval."""
    p_value: float | None
    """p-value of the difference."""
    p_holm: float | None
    """The same, adjusted within the evaluation."""
    is_small: bool
    """Whether the difference is shown to be smaller than the smallest one that matters, if the grid gives one."""
    verdict: str | None
    """better, worse, equivalent or undecided; null for a baseline."""
    method: str
    """The test."""
    note: str
    """Why something is missing, or that the metric is a factor; otherwise empty."""


class EvaluationKind(Output):
    """A built-in evaluation, with `--list`."""

    summary: str
    """What it measures."""
    metrics: dict[str, str | None]
    """Metric to its better direction, or null."""
    source: str
    """Where the protocol comes from."""
    knobs: dict[str, Any]
    """Knob to its default and description."""
