"""The records that a study's folder holds, as plain frozen data. They load without torch, ray or mlflow."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from ablate.errors import RecordError

Value = Any  # a level: a word, a number, a truth value, or nothing
State = Literal["queued", "running", "finished", "failed", "diverged"]

STATES: tuple[State, ...] = ("queued", "running", "finished", "failed", "diverged")
STALE_S = 60.0
LARGEST = 1e100  # of a measured number: above all that float32 holds and any budget, and its square is still a float64
MAX_COUNT = 2**53  # of steps, tokens, parameters: whole numbers up to it are exact as float64
ENDED: frozenset[State] = frozenset({"finished", "diverged"})

_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # 007 is a name
_TRUTH = {"true": True, "false": False}

_CONFIG = ConfigDict(extra="ignore", allow_inf_nan=False)


def is_number(value: Any) -> bool:
    """Whether it is a number that may have been measured."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def read_number(text: str) -> int | float | None:
    """A decimal number, as an integer where it is whole: `1e-3` is 0.001, `42.0` is 42. None for anything else."""
    text = text.strip()
    if not _NUMBER.fullmatch(text) or abs(value := float(text)) > LARGEST:
        return None
    if text.lstrip("+-").isdecimal():
        return int(text)
    return int(value) if value.is_integer() and abs(value) <= MAX_COUNT else value


def read_level(text: str) -> Value:
    """What a level means: a truth value, a number, or the text itself."""
    if (truth := _TRUTH.get(text.strip().lower())) is not None:
        return truth
    number = read_number(text)
    return text if number is None else number


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """What checks and writes a class; made once, which takes milliseconds."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


class Record:
    """A record that is written as JSON and read back, with its types checked."""

    def to_dict(self) -> dict[str, Any]:
        content: dict[str, Any] = _adapter(type(self)).dump_python(self, warnings=False)
        return content

    @classmethod
    def from_dict(cls, data: Any, place: object = None) -> Self:
        """Raises `RecordError`, naming the place, where something is missing or of the wrong type; unknown keys are
        passed over."""
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
    `compare_within`, `baseline` the name of the arm it is compared with (its own for a baseline).
    `flops_per_token` counts a training step: forward and backward. Sizes that are not known, as of runs of other
    programs, are None; older records say 0. `identity` is the hash of what decides its results, seeds aside; empty
    where the record does not say.
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
class StudyRecord(Record):
    """`study.json`: what the study is made of, written by every `ablate run` before training starts."""

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
    tuning: Mapping[str, Any] = field(default_factory=dict)  # how settings were looked for, where they were
    caveats: tuple[str, ...] = ()  # of runs that another program logged: what the reader of the verdict must know

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

    `heartbeat` is the Unix time of the last sign of life (s) while running; `step` the last finished optimizer step.
    A finished run whose `step` is below `n_steps` was cut by early stopping. `took_s` is all the time that workers
    spent on it, `memory_bytes` the most it held, `micro_batch_size` what it was reduced to for want of memory, and
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

    def is_stale(self, now: float | None = None) -> bool:
        """Whether it says that it is running but has given no sign of life for a minute.

        A heartbeat from the future is none either: a clock has jumped. Whether a worker is at it, its lease tells.
        """
        age_s = (time.time() if now is None else now) - self.heartbeat
        return self.state == "running" and not -STALE_S <= age_s <= STALE_S
