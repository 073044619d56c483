"""What a file declares: `Declaration` is common to grids and searches, `Study` is a grid.

The `model:` section stays a plain mapping here because its keys belong to `ablate_model`, which this folder may not
import. `ablate.plan.resolve` checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from ablate.errors import DataError, GridError
from ablate.formatting import quote
from ablate.study.axis import Axis
from ablate.study.data_schema import DataConfig
from ablate.study.evaluations import Entry
from ablate.study.program import Program
from ablate.study.schema import Resources, Rule, StudyName, Texts, TrainConfig, one_or_many
from ablate.study.seeds import GridSeeds, Seeds, SeedsUntilDecided, UntilDecided
from ablate.study.settings import NAME, Settings
from ablate.study.start import StartFrom
from ablate.study.tuning import Frozen, Tune
from ablate.study.yaml_source import KeyPath, Place, Source

Design = Literal["full", "one_at_a_time", "leave_one_out"]

OWN = ("model", "train", "data")  # the sections that a program's own settings may have

Match = Literal["none", "parameters", "flops"]


_NOTHING: dict[str, Any] = {}
NO_TRAINING = TrainConfig.model_construct(**_NOTHING)  # of a program, whose training is its own: it has no steps


def _check_training(value: object, check: ValidatorFunctionWrapHandler) -> TrainConfig:
    return NO_TRAINING if value is NO_TRAINING else check(value)


LANGUAGE_MODEL_TASK: Mapping[str, Any] = {NAME: "language_model"}


def _read_task(value: object) -> object:
    """Read a task, which the file may write as just its name."""
    if isinstance(value, str):
        return {NAME: value}
    if not (isinstance(value, Mapping) and isinstance(value.get(NAME), str)):
        raise ValueError(f"must be the name of a task, or a mapping with a name, got {quote(value)}")
    return value


class Declaration(Frozen):
    """The common part of a grid and a search: everything that defines the runs, except the axes."""

    KEY: ClassVar[str]  # the key of the file that holds the name

    question: str = Field("", description="the question to answer, as a sentence")
    data: DataConfig = DataConfig()
    model: dict[str, Any] = Field(description="settings of ablate_model.ModelConfig")
    train: Annotated[TrainConfig, WrapValidator(_check_training)]
    task: Annotated[
        dict[str, Any],
        BeforeValidator(_read_task),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
    ] = Field(dict(LANGUAGE_MODEL_TASK), description="what the runs train: the name of a task, or a mapping")
    program: Program | None = Field(
        None, description="your own program that trains the arms; model, train and data then hold its settings"
    )
    own: SkipJsonSchema[dict[str, Any]] = Field({}, exclude=True, repr=False)  # the settings of a program
    rules: tuple[Rule, ...] = Field((), description="settings for the arms for which an expression holds")
    resources: Resources = Field(Resources(), description="CPU cores and GPUs of one run")
    seeds: Seeds = Field((0,), description="the number of seeds, or a list of them")

    _source: Source = PrivateAttr(default_factory=Source)

    @model_validator(mode="before")
    @classmethod
    def _set_own_settings_apart(cls, value: Any) -> Any:
        """With a program, `model`, `train` and `data` are its own settings, which may have any keys."""
        if not isinstance(value, dict) or "own" in value:
            raise ValueError("unknown key 'own'") if isinstance(value, dict) else ValueError("must be a mapping")
        if value.get("program") is None:
            return value
        if "task" in value:
            raise ValueError("task: the runs are those of a program, which needs no task")
        own = {key: value[key] for key in OWN if key in value}
        for key, settings in own.items():
            if not isinstance(settings, dict):
                raise ValueError(f"{key}: must be a mapping of the program's settings, got {quote(settings)}")
        rest = {key: part for key, part in value.items() if key not in OWN}
        resources = rest.get("resources")
        if isinstance(resources, dict):
            if resources.get("processes", 1) != 1:
                raise ValueError("resources.processes: a program starts its own processes, on the GPUs of its run")
            if resources.get("stack") is not None:
                raise ValueError("resources.stack: a program trains one seed at a time")
            rest["resources"] = {**resources, "processes": 1}
        return {**rest, "own": own, "model": {}, "train": NO_TRAINING}

    def train_like(self, other: Declaration, steps: int | None = None) -> Self:
        """A copy with the training of another declaration, and with this number of steps if it is given.

        Raises `ValueError` if the steps of a program cannot be set.
        """
        if self.program is None:
            train = other.train if steps is None else other.train.model_copy(update={"steps": steps})
            return self.replace(train=train)
        if steps is None:
            return self.replace(own=other.own)
        if not isinstance(self.program.steps, str):
            raise ValueError("name the setting that holds the number of steps: program.steps")
        own = Settings(other.own)
        own.set(self.program.steps, steps)
        return self.replace(own=own.tree)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the arms have in common, as nested mappings."""
        if self.program is not None:
            return self.own
        task = {} if self.is_language_model else {"task": self.task}
        return {"model": self.model, "train": self.train.model_dump(), **task}

    @property
    def is_language_model(self) -> bool:
        """Tell if the runs train language models on the corpus of `data`, with ablate's own loop."""
        return self.program is None and self.task == LANGUAGE_MODEL_TASK

    @property
    def folder(self) -> Path:
        """The folder of the file, in which programs run."""
        return Path(self.file).parent

    @property
    def name(self) -> str:
        """The name of the study or search, and of its folder."""
        return str(getattr(self, self.KEY))

    @property
    def file(self) -> str:
        """The file as messages name it."""
        return self._source.file

    def replace(self, *, name: str | None = None, **changes: Any) -> Self:
        """A copy with another name or other sections."""
        return self.model_copy(update=changes if name is None else {**changes, self.KEY: name})

    @property
    def source(self) -> Source:
        """Where the values of the file stand."""
        return self._source

    def place(self, *keys: str | int) -> Place:
        """The place of the value at `keys`."""
        return Place(self._source, keys)

    def locate(self, keys: KeyPath) -> str:
        """The file, the line and the dotted name of the value at `keys`."""
        return self._source.locate(keys)

    def refuse(self, keys: KeyPath, message: str) -> GridError:
        """The error to raise about the value at `keys`, with its file and line."""
        return self.place(*keys).refuse(message)

    def refuse_data(self, error: DataError) -> GridError:
        """The error to raise about the corpus. Most such messages begin with their key, as in `data.path: ...`."""
        key, _, rest = str(error).partition(": ")
        if key.removeprefix("data.") in DataConfig.model_fields:
            return self.refuse(tuple(key.split(".")), rest)
        return self.refuse(("data",), str(error))


class Predict(Frozen):
    """A test of scaling: the largest level of an axis is left out of the fit, and scores its prediction."""

    axis: str = Field(description="an axis of compare_within with at least three levels, such as the size")
    held_out: Literal["largest"] = Field("largest", description="the level that is predicted from the others")


class Study(Declaration):
    """A grid: one declared question."""

    KEY: ClassVar[str] = "study"

    study: StudyName = Field(description="name of the study and of its folder")
    matrix: dict[str, tuple[Any, ...]] = Field(
        description="axis to levels; an axis is attention, normalization, context_length, num_maps, or a dotted path"
    )
    conditions: dict[str, str] = Field({}, description="axis to the expression under which it exists")
    exclude: Texts = Field((), description="expressions; an arm for which one holds is left out")
    baseline: dict[str, Any] = Field({}, description="axis to level; default: the first level of every axis")
    compare_within: Texts = Field((), description="axes within whose levels arms are compared")
    seeds: GridSeeds = Field(
        (0,),
        description="the number of seeds, a list of them, or {at_least: 3, at_most: 12, until: decided}, which trains "
        "further seeds of the arms that are not yet better, worse or equivalent",
    )
    design: Design = Field(
        "full",
        description="arms of the matrix: all combinations; the baseline and each other level by itself; or the "
        "baseline and each of its axes put back by itself",
    )
    match: Match = Field("none", description="adapt d_ff to give every arm the size of its baseline")
    tune: Tune | None = Field(None, description="search for each arm's best settings first, with equal trials")
    start_from: StartFrom | None = Field(
        None, description="finished weights that the runs start from: those of the matching runs of another study"
    )
    evaluations: tuple[Entry, ...] = Field(
        (), description="what to measure with the trained models; `ablate evaluate --list` shows the evaluations"
    )
    predict: Predict | None = Field(
        None, description="an axis of compare_within whose largest level scores the prediction from the others"
    )
    smallest_effect: float | None = Field(
        None,
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="smallest difference of final values that matters; arms that differ by less are equivalent. "
        "Default: 0.01 nats for language models, and no equivalence for other metrics",
    )

    @field_validator("matrix")
    @classmethod
    def _has_levels(cls, value: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        if not value:
            raise ValueError("the matrix is empty: name at least one axis with its levels")
        for axis, levels in value.items():
            if not levels:
                raise ValueError(f"axis {quote(axis)} has no levels")
        return value

    @field_validator("evaluations", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return one_or_many(value)

    @model_validator(mode="after")
    def _trains_a_model(self) -> Self:
        if self.evaluations and self.program is not None:
            raise ValueError("evaluations: a program keeps its own weights, so its runs cannot be evaluated here")
        if self.start_from is not None and self.program is not None:
            raise ValueError("start_from: a program loads its own weights; pass their path in its command")
        return self

    @model_validator(mode="after")
    def _leaves_seeds_to_trials(self) -> Self:
        rule, tune = self.until_decided, self.tune
        if rule is None or tune is None or isinstance(tune.seeds, int):
            return self
        return self.replace(seeds=SeedsUntilDecided(rule, tune.seeds))

    def among(self, runs: Path) -> Self:
        """A copy that also looks for the study to start from in the folder of all studies."""
        if self.start_from is None:
            return self
        return self.replace(start_from=self.start_from.model_copy(update={"runs": runs}))

    @property
    def until_decided(self) -> UntilDecided | None:
        """The rule by which arms get further seeds; None if their number is fixed."""
        return self.seeds.rule if isinstance(self.seeds, SeedsUntilDecided) else None

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of the matrix, with their conditions."""
        return tuple(
            Axis(name, levels, ("matrix", name), self.conditions.get(name), ("conditions", name), is_list=True)
            for name, levels in self.matrix.items()
        )
