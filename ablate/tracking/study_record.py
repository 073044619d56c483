"""`study.json` and `status.json` as frozen dataclasses. Loads no torch, ray or mlflow."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import field
from itertools import count, islice
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass

from ablate.errors import RecordError
from ablate.metrics import LANGUAGE_MODEL, Metric, Metrics, list_metrics
from ablate.tracking.values import MAX_COUNT, Value

State = Literal["queued", "running", "finished", "failed", "diverged"]

STALE_S = 60.0
ENDED: frozenset[State] = frozenset({"finished", "diverged"})


_CONFIG = ConfigDict(extra="ignore", allow_inf_nan=False)


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return the validator of a class. Creating one takes milliseconds, so each is kept."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


class Record:
    """A record that is written as JSON and read back with its types checked."""

    def to_dict(self) -> dict[str, Any]:
        content: dict[str, Any] = _adapter(type(self)).dump_python(self, warnings=False)
        return content

    @classmethod
    def from_dict(cls, data: Any, place: object = None) -> Self:
        """Read a record and ignore unknown keys.

        Raises `RecordError`, naming the place, if a value is missing or has the wrong type.
        """
        try:
            record: Self = _adapter(cls).validate_python(data)
        except ValidationError as error:
            problem = error.errors()[0]
            parts = (
                place or cls.__name__,
                ".".join(map(str, problem["loc"])),
                problem["msg"].removeprefix("Value error, "),
            )
            raise RecordError(": ".join(str(part) for part in parts if part)) from None
        return record


def _read_size(size: int | None) -> int | None:
    return size or None


Size = Annotated[int | None, AfterValidator(_read_size)]


@dataclass(frozen=True, config=_CONFIG)
class ArmRecord(Record):
    """One cell of the matrix.

    `arm` is its name, `axes` its level on each axis that exists for it, `within` its levels on the axes of
    `compare_within`, and `baseline` the name of the arm that it is compared with (its own name for a baseline).
    `flops_per_token` counts the forward and backward pass of training. Unknown sizes, as in imported runs, are None;
    older records say 0. `n_steps` is 0 if only the runs say where they end, as those of a program do. `identity` is the
    hash of everything except the seed that decides the results; empty if the record does not have it.
    """

    arm: str
    axes: Mapping[str, Value]
    within: Mapping[str, Value]
    baseline: str
    n_params: Size
    flops_per_token: Size
    n_steps: int
    n_tokens: Size
    notices: tuple[str, ...] = ()
    identity: str = ""


@dataclass(frozen=True, config=_CONFIG)
class RunRecord(Record):
    """One training run of an arm: `run_id` names its folder. Two arms of equal config share a run."""

    run_id: str
    arm: str
    seed: int


@dataclass(frozen=True, config=_CONFIG)
class SeedRule(Record):
    """`until: decided`: the seeds are 0, 1, 2 and so on, and arms are judged after `at_least` of them and each more.

    Seeds that the study's trials use are `reserved` and left out.
    """

    at_least: int
    at_most: int
    reserved: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if not 2 <= self.at_least <= self.at_most:
            raise ValueError("the rule of its seeds is not 2 <= at_least <= at_most")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_the_default(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key != "reserved" or value}

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds, in the order in which arms get them."""
        free = (seed for seed in count() if seed not in self.reserved)
        return tuple(islice(free, self.at_most))


@dataclass(frozen=True, config=_CONFIG)
class HistoryEvent(Record):
    """Something that decides what a verdict is worth: a look at the results, or another set of seeds.

    `what` is `seeds` if the study was started with these seeds or got them, `until decided` if it got a rule for them,
    and `look` if its results were reported. `n_seeds` are its seeds, or those that the look could use. `added` are the
    seeds that `ablate run --seeds` added. `at` is the UTC time.
    """

    what: Literal["seeds", "until decided", "look"]
    at: str
    n_seeds: int
    added: tuple[int, ...] = ()


@dataclass(frozen=True, config=_CONFIG)
class StudyRecord(Record):
    """`study.json`: the arms and runs of a study, written by every `ablate run` before training starts.

    `metrics` maps each metric to its better direction. Arms are compared by the first. `smallest_effect` is the
    smallest difference of its final values that matters to the author; None if the grid does not give it.
    `predict` names the axis whose largest level is held out, if there is one.
    With `seed_rule`, arms train until they are decided, and `looks` are the looks so far, as `ablate.analysis.looks`
    writes them. `history` has the changes of its seeds, and the looks at its results by hand.
    `smallest_results` has such differences for evaluations: label to metric to difference.
    """

    study: str
    question: str
    design: str
    match: str
    compare_within: tuple[str, ...]
    baseline: Mapping[str, Value]
    axes: Mapping[str, tuple[Value, ...]]
    data: Mapping[str, Any]  # the declared data section, and `hash`, `n_train_tokens`, `n_validation_tokens`
    train: Mapping[str, Any]  # the declared train section
    arms: tuple[ArmRecord, ...]
    runs: tuple[RunRecord, ...]
    version: str
    command: str = ""
    tuning: Mapping[str, Any] = field(default_factory=dict)  # how settings were tuned, if they were
    caveats: tuple[str, ...] = ()  # of imported runs: facts that the reader of the verdict must know
    metrics: Metrics = field(default_factory=lambda: dict(LANGUAGE_MODEL))
    smallest_effect: PositiveFloat | None = None
    predict: Mapping[str, str] = field(default_factory=dict)
    seed_rule: SeedRule | None = None
    looks: tuple[Mapping[str, Any], ...] = ()
    history: tuple[HistoryEvent, ...] = ()
    smallest_results: Mapping[str, Mapping[str, PositiveFloat]] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """The metric by which arms are compared."""
        return list_metrics(self.metrics)[0]

    def to_dict(self) -> dict[str, Any]:
        """The record without what has its default value: older records do not have these keys."""
        content = super().to_dict()
        for name, default in (
            ("smallest_effect", None),
            ("predict", {}),
            ("seed_rule", None),
            ("looks", ()),
            ("history", ()),
            ("smallest_results", {}),
        ):
            if content[name] == default:
                del content[name]
        pairs = [list(pair) for pair in content.pop("metrics").items()]  # a mapping would be written in another order
        return content if self.metrics == LANGUAGE_MODEL else content | {"metrics": pairs}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _refuse_repeats("arms", Counter(arm.arm for arm in self.arms))
        _refuse_repeats("runs", Counter(f"{run.arm}, seed {run.seed}" for run in self.runs))
        known = {arm.arm for arm in self.arms}
        for name in (*(arm.baseline for arm in self.arms), *(run.arm for run in self.runs)):
            if name not in known:
                raise ValueError(f"there is no arm {name!a} in it")
        return self


def _refuse_repeats(what: str, times: Counter[str]) -> None:
    if twice := [name for name, n in times.items() if n > 1]:
        raise ValueError(f"two of its {what} are named {twice[0]!r}")


@dataclass(frozen=True, config=_CONFIG)
class Status(Record):
    """`status.json`: the state of one run, replaced as a whole.

    `heartbeat` is the Unix time (s) of the last sign of life while running, and `step` the last finished optimizer
    step. A finished run whose `step` is below `n_steps` was stopped early. `took_s` is the total time that workers
    spent on it, `memory_bytes` its peak memory, `micro_batch_size` the size it was reduced to for lack of memory, and
    `curve` the length (bytes) and CRC-32 of its curve once it has ended.
    """

    state: State
    step: int = 0
    n_steps: int = 0
    worker: str = ""
    heartbeat: float = 0.0
    error: str = ""
    notes: tuple[str, ...] = ()
    took_s: float = 0.0
    memory_bytes: int = 0
    micro_batch_size: int | None = None
    curve: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if not 0 <= self.step <= MAX_COUNT:
            raise ValueError(f"step is not a number from 0 to {MAX_COUNT}")
        return self

    @property
    def is_cut(self) -> bool:
        return self.state == "finished" and self.step < self.n_steps

    @property
    def known_steps(self) -> int:
        """How many steps the run has; 0 if it is not known.

        A run of unknown length that was cut has `n_steps` one above its last step, because it would have gone on.
        """
        return 0 if self.is_cut and self.n_steps == self.step + 1 else self.n_steps

    def is_stale(self, now: float | None = None) -> bool:
        """Tell whether it says that it is running but has given no sign of life for a minute.

        A heartbeat from the future, after a clock has jumped, does not count. The lease tells whether a worker trains
        it.
        """
        age_s = (time.time() if now is None else now) - self.heartbeat
        return self.state == "running" and not -STALE_S <= age_s <= STALE_S
