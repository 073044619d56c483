"""The sections that a grid and a search have in common beside the data: training, rules and resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from ablate.files import STUDY_NAME, study_name_problem
from ablate.formatting import quote
from ablate.recipes.optimizers import OPTIMIZERS
from ablate.recipes.optimizers.base import OptimizerVariant
from ablate.recipes.own import read_own
from ablate.recipes.schedules import SCHEDULES
from ablate.recipes.schedules.base import ScheduleVariant
from ablate.recipes.variant import Variant, find_unread, with_knobs
from ablate.study.tuning import Frozen, Strict

# Larger values are more likely a typing error than a study.
MAX_STEPS = 1_000_000_000
MAX_SEQUENCES = 10_000_000
MAX_TOKENS = 1_000_000_000_000
MAX_WORKERS = 100_000  # cores, GPUs or processes of one run


def _check_name(value: str) -> str:
    if problem := study_name_problem(value):
        raise ValueError(problem)
    return value


StudyName = Annotated[str, Field(pattern=STUDY_NAME), AfterValidator(_check_name)]


def one_or_many(value: object) -> object:
    """Turn a single text into a tuple, and return anything else as it is."""
    return (value,) if isinstance(value, str) else value


# A tuple that the file may write as one value or as a list.
Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(one_or_many),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


# The keys of `train` that choose a variant, and the keys that are learning rates.
VARIANTS: Mapping[str, Mapping[str, type[Variant]]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
LEARNING_RATES = ("learning_rate", *(rate for variant in OPTIMIZERS.values() for rate in variant.learning_rates))


@cache
def _explain_idle(optimizer: type[Variant], schedule: type[Variant]) -> Mapping[str, str]:
    return find_unread({"optimizer": optimizer, "schedule": schedule}, VARIANTS)


@cache
def _explain_all_idle(optimizer: type[OptimizerVariant], schedule: type[ScheduleVariant]) -> Mapping[str, str]:
    idle = {**_explain_idle(optimizer, schedule), **optimizer.explain_unread()}
    if not schedule.falls:
        idle["min_learning_rate"] = f"a {schedule.name} schedule does not fall"
    return idle


@with_knobs(**VARIANTS)
class TrainConfig(Strict):
    """The training of a run. `None` stands for the default of the arm's normalization (the recipe of its paper)."""

    own: ClassVar[Mapping[str, type[Variant]]] = {}  # key -> the variant from a user's own file

    steps: int = Field(gt=0, le=MAX_STEPS, description="optimizer steps")
    batch_size: int = Field(16, gt=0, le=MAX_SEQUENCES, description="sequences per step")
    micro_batch_size: Annotated[int, Field(gt=0, le=MAX_SEQUENCES)] | Literal["auto"] | None = Field(
        None,
        description="sequences at once on the device; changes memory, not results; auto: as many as fit",
    )
    optimizer: str = Field("adamw", description="")
    learning_rate: float = Field(1e-3, gt=0, le=1e30, description="peak learning rate")
    min_learning_rate: float = Field(0.0, ge=0, le=1e30, description="learning rate at the end of the schedule")
    schedule: str = Field("cosine", description="what follows the warm-up")
    warmup_steps: int | None = Field(
        None, ge=0, le=MAX_STEPS, description="linear warm-up; default: ngpt 0, else a tenth of the steps, at most 2000"
    )
    weight_decay: float | None = Field(None, ge=0, le=1e4, description="default: ngpt 0, else 0.1")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of AdamW's mean of gradients")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of AdamW's mean of squared gradients")
    adam_eps: float = Field(1e-8, ge=1e-30, le=1.0, description="added to the denominator of AdamW's step")
    grad_clip: float = Field(1.0, ge=0, le=1e9, description="global gradient norm; 0 switches clipping off")
    log_every: int = Field(10, gt=0, le=MAX_STEPS, description="steps between lines of the curve")
    eval_every: int = Field(25, gt=0, le=MAX_STEPS, description="steps between evaluations")
    eval_tokens: int = Field(
        32768, gt=0, le=MAX_TOKENS, description="validation tokens per evaluation, the same for every arm"
    )
    checkpoint_every: int = Field(100, gt=0, le=MAX_STEPS, description="steps between checkpoints")
    precision: Literal["float32", "bfloat16", "float64"] = Field(
        "float32", description="bfloat16: autocast over float32 master weights"
    )
    compile: bool | Literal["auto"] = Field(
        False,
        description="torch.compile, block by block; auto: for runs that are long enough to pay for it, by shapes and "
        "steps",
    )
    recompute: bool = Field(
        False, description="save memory: keep only the input of each block, and compute the rest again for gradients"
    )
    cuda_graph: bool = Field(
        False,
        description="launch each step as one CUDA graph, so that the host does not slow down small models",
    )
    deterministic: bool = Field(
        False,
        description="bit-equal reruns on one GPU of the same kind with the same versions, at some cost in speed; an "
        "operation that torch cannot make deterministic ends the run with its reason",
    )
    attention_backend: Literal["auto", "fastest", "sdpa", "flash", "flex", "math"] = Field(
        "auto",
        description="attention kernels, the same for every arm; a backend chosen by name never falls back silently; "
        "fastest: measured once per shape and machine",
    )

    @field_validator("compile", mode="before")
    @classmethod
    def _is_choice_or_auto(cls, value: object) -> object:
        """Give one message, because the union's two parts would give one each."""
        if value != "auto" and not isinstance(value, bool):
            raise ValueError(f"must be true, false or auto, got {quote(value)}")
        return value

    @field_validator("micro_batch_size", mode="before")
    @classmethod
    def _is_count_or_auto(cls, value: object) -> object:
        """Give one message, because the union's two parts would give one each."""
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SEQUENCES
        if value is not None and value != "auto" and not is_count:
            raise ValueError(f"must be a whole number from 1 to {MAX_SEQUENCES:,} or auto, got {quote(value)}")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _read_own(cls, data: Any, read: Callable[[Any], Self]) -> Self:
        """Give the training the knobs of an optimizer or a schedule from a user's file."""
        return read_own(TrainConfig, VARIANTS, data, read) if not cls.own else read(data)

    @property
    def sequences_at_once(self) -> int:
        """The micro-batch size, or the batch size where it is not set."""
        return self.micro_batch_size if isinstance(self.micro_batch_size, int) else self.batch_size

    @property
    def compiled_settings(self) -> tuple[object, ...]:
        """The settings on which compiled code depends, besides those of the model."""
        return self.batch_size, self.micro_batch_size, self.precision, self.recompute, self.deterministic

    def smaller_micro_batch(self, processes: int = 1) -> int | None:
        """The largest divisor of a process's share of the batch that at least halves the sequences at once, or None."""
        share = self.batch_size // processes
        half = min(self.sequences_at_once, share) // 2
        return next((size for size in range(half, 0, -1) if share % size == 0), None)

    @property
    def optimizer_class(self) -> type[OptimizerVariant]:
        return self.own.get("optimizer") or OPTIMIZERS[self.optimizer]  # type: ignore[return-value]

    @property
    def schedule_class(self) -> type[ScheduleVariant]:
        return self.own.get("schedule") or SCHEDULES[self.schedule]  # type: ignore[return-value]

    @property
    def optimizer_variant(self) -> OptimizerVariant:
        return self.optimizer_class.from_settings(self)

    @property
    def schedule_variant(self) -> ScheduleVariant:
        return self.schedule_class.from_settings(self)

    def idle_settings(self) -> frozenset[str]:
        """The names of settings that the chosen optimizer and schedule do not read, so they have no effect."""
        return frozenset(_explain_idle(self.optimizer_class, self.schedule_class))

    def explain_idle(self) -> Mapping[str, str]:
        """Every setting that has no effect here, with the reason, even if it is part of a run's identity."""
        return _explain_all_idle(self.optimizer_class, self.schedule_class)

    def canonical(self) -> Self:
        """A copy with settings that have no effect at their defaults, so all that train alike are equal."""
        fields, idle = type(self).model_fields, self.explain_idle()
        changed = {name: fields[name].default for name in idle if getattr(self, name) != fields[name].default}
        return self.model_copy(update=changed) if changed else self

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError("min_learning_rate is above learning_rate")
        if self.warmup_steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} leaves no step of {self.steps} at the full learning rate"
            )
        if self.batch_size % self.sequences_at_once:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        self.optimizer_variant.check()
        self.schedule_variant.check(self.steps, self.warmup_steps or 0)
        if self.deterministic and self.attention_backend == "fastest":
            raise ValueError(
                "deterministic: attention_backend fastest measures again on each machine, and another kernel rounds "
                "differently; name a backend, or use auto"
            )
        if self.deterministic and self.micro_batch_size == "auto":
            raise ValueError(
                "deterministic: micro_batch_size auto depends on free memory, and other micro-batches round "
                "differently; give a number"
            )
        if self.cuda_graph and not self.optimizer_class.can_be_graphed:
            able = ", ".join(name for name, variant in OPTIMIZERS.items() if variant.can_be_graphed)
            raise ValueError(f"cuda_graph: {self.optimizer} cannot be captured; only {able} can")
        return self


class Rule(Frozen):
    """Settings for the arms for which `when` holds."""

    when: str = Field(description="expression over the axes, such as normalization == 'ngpt'")
    set: dict[str, Any] = Field(min_length=1, description="dotted path to its value")


class Resources(Strict):
    """The resources of one run. The default is one GPU if there is one, otherwise one CPU core."""

    cpus: int | None = Field(
        None, gt=0, le=MAX_WORKERS, description="CPU cores per process, which is also its number of threads"
    )
    gpus: float | None = Field(
        None,
        ge=0,
        le=MAX_WORKERS,
        description="GPUs per run: a share of one, or several that train it with data parallelism",
    )
    processes: int | None = Field(
        None,
        gt=0,
        le=MAX_WORKERS,
        description="processes that share each batch with data parallelism; default: one per GPU",
    )
    stack: Literal["seeds"] | None = Field(
        None, description="seeds: train the seeds of an arm as one batch of models, which is faster for small models"
    )

    @property
    def n_processes(self) -> int:
        return self.processes or max(1, int(self.gpus or 1))

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: {self.gpus:g} is neither a whole number of GPUs nor a share of one")
        if self.gpus and self.n_processes > 1 and self.gpus != self.n_processes:
            raise ValueError(f"processes: {self.n_processes} processes need a GPU each, not {self.gpus:g} together")
        return self
