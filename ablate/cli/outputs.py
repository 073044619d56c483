"""What `--json` prints, verb by verb. `ablate schema --outputs` prints these models as JSON Schemas.

Later versions may add keys; they do not rename, remove or reuse one. The module is long because it is a list: every
key of every verb, with its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from ablate.tracking.verifications import Verification

State = str  # queued, running, finished, diverged, failed, stopped early, interrupted or stale


class Output(BaseModel):
    """A JSON object. The text below a field describes it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class StarterKind(Output):
    """A kind of starter."""

    kind: str
    """The word for `ablate init`."""
    about: str
    """What the starter compares."""


class Starter(Output):
    """The files that were written."""

    kind: str
    """The kind of starter."""
    files: tuple[str, ...]
    """Paths of the files."""
    next: str
    """Commands to go on with."""


class StartingWeights(Output):
    """The weights that a run starts from."""

    id: str
    """Id of the run that has them, or the hash of a folder's weights."""
    name: str
    """The arm, the seed and the study of that run, or the folder."""


class PlannedRun(Output):
    """A run of a grid, as planned. A run that starts from the weights of another run also has the key `start_from`."""

    run_id: str
    """Hash of everything that decides the result."""
    arm: str
    """Name of the arm."""
    seed: int
    """Seed of initialization and batches."""
    n_params: int | None
    """Parameters of the model; null for a program."""
    flops_per_token: int | None
    """FLOPs of a forward and backward pass per token; null for a program."""
    n_tokens: int | None
    """Training tokens; null if unknown."""
    n_steps: int | None
    """Optimizer steps; null if unknown."""
    axes: dict[str, Any]
    """Axis to level."""
    baseline: str
    """Name of the arm that it is compared with."""
    is_certain: bool | None = None
    """Only with `until: decided`: whether it is before the first look, so that no look decides about it."""
    start_from: StartingWeights | None = None
    """Only with `start_from`: the weights that it starts from."""


class PlannedSearch(Output):
    """An arm of a search, as planned."""

    arm: str
    """Name of the arm."""
    trials: int
    """Number of trials."""
    seeds: tuple[int, ...]
    """Seeds of each trial."""
    n_steps: int | None
    """Optimizer steps of a trial; null if unknown."""
    n_params: int | None
    """Parameters of the model at the defaults; null for a program."""
    space: dict[str, Any]
    """Dotted path to its range or choices."""
    defaults: dict[str, Any]
    """Dotted path to its default, which is trial 0."""
    left_out: tuple[str, ...]
    """Settings of the space that the arm does not have."""


class FailedRun(Output):
    """A run that failed."""

    run_id: str
    """The run's id."""
    arm: str
    """Name of the arm."""
    seed: int
    """Its seed."""
    error: str
    """The error in one line; `ablate logs` has the traceback."""


class RunOutcome(Output):
    """How a study stands when the command ends. The exit code says the same."""

    study: str
    """Name of the study; that of the trials if `tune:` is not over."""
    folder: str
    """Folder of the study."""
    states: dict[State, int]
    """State to number of runs."""
    failed: tuple[FailedRun, ...]
    """The runs that failed."""
    failed_evaluations: dict[str, str]
    """Evaluation, as text, to the error with which it failed. The runs themselves are not affected."""
    halted: str
    """Why the command gave up; empty if it did not."""
    interrupted: bool
    """Whether a signal or `ablate stop` ended it."""
    time_is_up: bool
    """Whether `--minutes` ended it."""
    command: str
    """The command that resumes the study."""


class SearchOutcome(Output):
    """How a search stands when the command ends."""

    search: str
    """Name of the search."""
    states: dict[State, int]
    """State to number of runs, of the trials or of the confirmation; empty if the command only wrote pages."""
    interrupted: bool
    """Whether a signal or `ablate stop` ended it."""
    page: str
    """Path of the page; `summary.json` next to it has every number."""


class StopRequest(Output):
    """The request to stop."""

    study: str
    """Name of the study."""
    folder: str
    """Folder of the study."""


class SubmittedJob(Output):
    """The job on the cluster."""

    study: str
    """Name of the study."""
    n_runs: int
    """Number of runs in the plan."""
    job: str
    """Ray's id of the job."""
    address: str
    """The cluster's job server."""


class PreparedCorpus(Output):
    """A corpus that is ready for training."""

    folder: str
    """Folder of the token shards."""
    n_train_tokens: int
    """Tokens for training."""
    n_validation_tokens: int
    """Tokens held out for validation."""
    vocab_size: int
    """Size of the vocabulary."""
    bits_per_token: int
    """Bits that a token takes on disk."""
    held_out: str
    """How the validation split was chosen."""
    data_hash: str
    """Hash of the tokens."""


class DataSource(Output):
    """A value of `data.source`."""

    name: str
    """The value."""
    summary: str
    """What it reads."""
    validation: str
    """How it holds out the validation split."""


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
    """Finished pairs of runs."""
    sd: float
    """Standard deviation of a paired difference, in the metric's unit."""
    detectable: float
    """Difference that these seeds find with the power asked for."""
    seeds_needed: int | None
    """Seeds that find the effect asked for; null if it takes too many."""


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
    """Arm minus baseline, paired by seed."""
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
    """Why something is missing; otherwise empty."""


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


class Removal(Output):
    """A file that is removed."""

    path: str
    """The file."""
    n_bytes: int
    """Its size."""
    reason: str
    """Why it goes."""


class Cleaned(Output):
    """What `clean` removed."""

    study: str
    """Name of the study."""
    dry_run: bool
    """Whether the files are still there."""
    n_bytes: int
    """Size of all of them."""
    removals: tuple[Removal, ...]
    """The files."""


class PackedStudy(Output):
    """The archive of a study."""

    study: str
    """Name of the study."""
    archive: str
    """Path of the archive."""
    n_runs: int
    """Runs in the archive."""


class MergedStudy(Output):
    """What `merge` added to a study."""

    study: str
    """Name of the study."""
    folder: str
    """Folder of the study."""
    n_added: int
    """Runs that were added."""
    n_present: int
    """Runs that were there already."""


class CheckLine(Output):
    """A check of a variant."""

    name: str
    """What is checked."""
    outcome: str
    """pass, fail or skip."""
    detail: str
    """What was found, or why the check failed or was skipped."""


class CheckedVariant(Output):
    """The checks of a variant. Its sizes and times stand beside them as text."""

    variant: str
    """FILE:CLASS."""
    axis: str
    """The axis it belongs to."""
    files: str
    """The files that its version covers."""
    version: str
    """Hash of these files."""
    checks: tuple[CheckLine, ...]
    """The checks."""


class VariantEntry(Output):
    """A variant of a component. A variant that has a neutral point also has the key `neutral`."""

    summary: str
    """What it is."""
    paper: str
    """Where it comes from."""
    version: int | str
    """Version of its mathematics, which is part of run ids."""
    knobs: dict[str, Any]
    """Knob to its default, type and description."""


class Warmed(Output):
    """A kind of model that was compiled ahead."""

    arms: tuple[str, ...]
    """The arms that share its compiled code."""
    seconds: float
    """How long it took; little if the caches on disk had it."""
    error: str
    """Why it failed; empty if it did not."""


class Finding(Output):
    """A fact about this machine."""

    name: str
    """What was looked at."""
    found: str
    """What was found."""
    advice: str
    """What to do; empty if nothing is wrong."""


class ArmSpeed(Output):
    """The speed of an arm."""

    arm: str
    """Name of the arm."""
    n_params: int
    """Parameters of the model."""
    tokens_per_step: int
    """Tokens per optimizer step."""
    backend: str
    """Attention backend."""
    step_ms: float
    """Milliseconds per step, in the median window."""
    tokens_per_s: float
    """Tokens per second."""
    model_tflops: float
    """The model's own matrix products, in TFLOP/s."""
    ceiling_share: float
    """Their share of the rate of a large matrix product."""
    peak_memory_bytes: int
    """Peak memory."""
    first_step_cold_s: float | None
    """Seconds to the end of the first step with an empty compilation cache; null without `--cold`."""
    first_step_warm_s: float
    """The same with a full cache."""


class Speeds(Output):
    """The speeds of all arms of a grid on one device."""

    study: str
    """Name of the study."""
    command: str
    """The command that measured them."""
    device: str
    """Name of the device."""
    versions: dict[str, str]
    """Package to version."""
    ceiling_tflops: dict[str, float]
    """Precision to the rate of a large matrix product."""
    arms: tuple[ArmSpeed, ...]
    """The arms that could be measured."""
    failed: dict[str, str]
    """Arm to the reason why it could not."""


class TriedArm(Output):
    """An arm of a try against its baseline. Its numbers hold for all arms of the try at the try's error rate."""

    arm: str
    """Name of the arm."""
    baseline: str
    """Name of the arm that it is compared with."""
    identity: str
    """Hash of both arms and the metric: the same pair in another study has the same."""
    axes: dict[str, Any]
    """Axis to level."""
    n: int
    """Number of pairs of runs."""
    verdict: str
    """better, worse, equivalent or undecided."""
    estimate: float | None
    """Final value, arm minus baseline; null if one of them is missing."""
    low: float | None
    """Lower end of its interval."""
    high: float | None
    """Upper end of its interval."""
    p_value: float | None
    """Adjusted p-value, to be compared with the try's `alpha`."""
    sd: float | None
    """Standard deviation of a paired difference."""
    detectable: float | None
    """The difference that the test finds in 80 % of cases."""
    method: str
    """Name of the test, or why there was no test."""


class CampaignTry(Output):
    """A try of a campaign."""

    k: int
    """Its number, from 1."""
    at: str
    """When it was added (UTC)."""
    study: str
    """Name of the study."""
    question: str
    """The question of the study."""
    identity: str
    """Hash of all pairs of arms."""
    results: str
    """Hash of the runs and of where they ended."""
    alpha: float
    """The error rate at which it was tested."""
    metric: str
    """The metric that compares arms."""
    direction: str
    """The better direction of the metric: lower or higher."""
    smallest_effect: float | None
    """The smallest difference that matters; null if unknown."""
    arms: tuple[TriedArm, ...]
    """The arms, without baselines."""
    decision: str
    """kept, dropped or open."""
    because: str
    """The reason for the decision."""
    repeats: int | None
    """An earlier try of the same arms, if it was tested again."""
    grid: dict[str, Any]
    """How to train it again: axes, baseline, design, seeds, hash of the data, command, and the grid's text if known."""
    code: dict[str, Any]
    """Versions of your files, commits, and `diff` from the files of the try `compared_with`, which was kept last."""
    notes: tuple[str, ...]
    """Remarks, such as arms that earlier tries tested."""


class NextTry(Output):
    """The differences that the next try can detect."""

    k: int
    """Its number."""
    alpha: float
    """The error rate at which it will be tested."""
    metric: str | None
    """The metric of the last try; null before the first."""
    sd: float | None
    """Median standard deviation of a paired difference over all tries; null if unknown."""
    effect: float | None
    """The smallest difference that matters, as in the last try."""
    seeds: int | None
    """Seeds with which one arm finds that difference in 80 % of cases; null if unknown, or more than 10,000."""


class CampaignState(Output):
    """Everything that a campaign knows."""

    name: str
    """Name of the campaign."""
    goal: str
    """What all tries are for."""
    alpha: float
    """Error rate of the whole campaign."""
    spent: float
    """The sum of the tries' rates."""
    left: float
    """What is left of it for all further tries."""
    next: NextTry
    """The next try."""
    tries: tuple[CampaignTry, ...]
    """All tries, in order."""
    added: int | None = None
    """Only with `--add`: the number of the try that the study is."""
    is_new: bool | None = None
    """Only with `--add`: false if the study was this try already."""


class EarlierTest(Output):
    """A try that tested an arm."""

    k: int
    """Number of the try."""
    verdict: str
    """Its verdict on the arm."""
    estimate: float | None
    """Final value, arm minus baseline."""
    low: float | None
    """Lower end of its interval."""
    high: float | None
    """Upper end of its interval."""
    decision: str
    """kept, dropped or open."""
    because: str
    """The reason."""


class CheckedArm(Output):
    """An arm of a grid, as a campaign sees it."""

    arm: str
    """Name of the arm."""
    baseline: str
    """Name of the arm that it is compared with."""
    seeds: int
    """Planned pairs of runs."""
    detectable: float | None
    """The difference that it finds in 80 % of cases, with the scatter of earlier tries; null if unknown."""
    tests: tuple[EarlierTest, ...]
    """Tries that tested the same pair of arms, the newest last."""


class CheckedGrid(Output):
    """A grid as the next try."""

    name: str
    """Name of the campaign."""
    study: str
    """Name of the study."""
    k: int
    """The number that it would have."""
    alpha: float
    """The error rate at which it would be tested."""
    arms: tuple[CheckedArm, ...]
    """Its arms, without baselines."""


class RankedEntry(Output):
    """An entry of a board."""

    entry: str
    """Study and arm, as the page names them."""
    report: str
    """Folder of its report."""
    arm: str
    """Name of the arm in the report."""
    rank_low: int
    """The best rank that it may have: one more than the number of entries that are shown to be better."""
    rank_high: int
    """The worst rank that it may have. Entries whose ranks overlap share a place."""
    value: float
    """Mean final value, or geometric mean of the cost of the target."""
    n_seeds: int
    """Number of its runs."""
    verdict: str
    """The published verdict against its own baseline: better, worse, equivalent, undecided or baseline."""
    verified: tuple[str, ...]
    """Outcome of each verification beside its report: confirmed, refuted or undecided."""


class RankedPair(Output):
    """The test of two entries. Intervals and p-values hold for all pairs of a board together."""

    first: str
    """The entry with the better mean."""
    second: str
    """The other entry."""
    value: float
    """Second minus first; on boards of costs, second over first."""
    low: float | None
    """Lower end of its 95 % interval; null if an entry has one run."""
    high: float | None
    """Its upper end."""
    p_value: float | None
    """The adjusted p-value."""
    is_clear: bool
    """Whether the first entry is shown to be better."""


class RankedBoard(Output):
    """A board of a benchmark."""

    name: str
    """Its name, such as tokens."""
    axis: str
    """What it ranks: loss, or the cost of the target in tokens, flops or seconds."""
    device: str
    """The device of a board of seconds; empty for others."""
    entries: tuple[RankedEntry, ...]
    """The ranked entries, the best mean first."""
    pairs: tuple[RankedPair, ...]
    """The tests of all pairs."""
    not_ranked: dict[str, str]
    """Entry to the reason why it is not ranked here."""


class RefusedArm(Output):
    """An arm that breaks a rule of the benchmark."""

    entry: str
    """Study and arm."""
    report: str
    """Folder of its report."""
    rule: str
    """The rule: data, metric, settings, budget, size or seeds."""
    message: str
    """How it breaks the rule."""


class RankedBenchmark(Output):
    """The leaderboard of a benchmark."""

    benchmark: str
    """Name of the benchmark."""
    boards: tuple[RankedBoard, ...]
    """Its boards."""
    refused: tuple[RefusedArm, ...]
    """The arms that were not admitted."""
    page: str
    """Path of the page."""
    csv: str
    """Path of the table, with one line per entry and board."""


class AgentTool(Output):
    """A tool for agents."""

    name: str
    """Its name."""
    description: str
    """What it does."""
    arguments: dict[str, Any]
    """JSON Schema of its arguments."""


OUTPUTS: Mapping[str, Any] = {
    "init": Starter | list[StarterKind],
    "plan": list[PlannedRun] | list[PlannedSearch],
    "run": RunOutcome,
    "stop": StopRequest,
    "submit": SubmittedJob,
    "data prepare": PreparedCorpus,
    "data sources": list[DataSource],
    "status": list[RunState],
    "logs": RunLog,
    "power": list[ArmPower],
    "generate": Continuation,
    "evaluate": list[EvaluatedArm] | dict[str, EvaluationKind],
    "campaign": CampaignState | CheckedGrid,
    "search": SearchOutcome,
    "verify": Verification,
    "leaderboard": RankedBenchmark,
    "clean": Cleaned,
    "pack": PackedStudy,
    "merge": MergedStudy,
    "variants": dict[str, dict[str, VariantEntry]],
    "check": CheckedVariant,
    "doctor": list[Finding],
    "warm": list[Warmed],
    "bench": Speeds,
    "mcp": list[AgentTool],
}


def output_schemas() -> dict[str, Any]:
    """Verb to the JSON Schema (draft 2020-12) of what it prints with `--json`."""
    return {verb: TypeAdapter(model).json_schema(mode="serialization") for verb, model in OUTPUTS.items()}


def print_output(output: Output | Sequence[Output]) -> None:
    """Print an output, or a list of outputs, as JSON."""
    value = output.model_dump() if isinstance(output, Output) else [item.model_dump() for item in output]
    print(json.dumps(value, indent=1))
