"""What the verbs that plan and train print: `init`, `data`, `plan`, `run`, `search`, `stop` and `submit`."""

from __future__ import annotations

from typing import Any

from ablate.cli.outputs.base import Output, State


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


class DataSource(Output):
    """A value of `data.source`."""

    name: str
    """The value."""
    summary: str
    """What it reads."""
    validation: str
    """How it holds out the validation split."""


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
