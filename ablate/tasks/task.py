"""What a grid's `task:` can name: the settings, data, metrics and training of a task, and the table of all tasks."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ValidationError

from ablate.errors import suggest
from ablate.formatting import quote
from ablate.metrics import Direction
from ablate.study.schema import TrainConfig
from ablate.training.contract import TrainingTask
from ablate_model import ConfigError, ModelConfig
from ablate_model.knobs import Knobs, describe_knobs, translate

NAME = "name"
LANGUAGE_MODEL = "language_model"  # the default, whose data and settings are the grid's own sections

# The tasks beside it, imported at first use.
TASKS: dict[str, str] = {
    "sequence_to_sequence": "sequence_to_sequence:SequenceToSequence",
    "images": "images:Images",
    "recall": "recall:Recall",
    "multiple_choice": "multiple_choice:MultipleChoice",
    "question_answering": "question_answering:QuestionAnswering",
}


@dataclass(frozen=True)
class DataInfo:
    """The data of a task. `hash` identifies all of it, and `validation` what is measured.

    `settings` are sizes of the model that follow from the data; a grid may give them, too. `n_train` is None if
    training data never repeats. `notices` are remarks for the plan. `tokens_per_row` is given if it is not the context
    length.
    """

    hash: str
    validation: str
    n_train: int | None
    n_validation: int
    settings: Mapping[str, Any] = field(compare=False)
    notices: tuple[str, ...] = field(default=(), compare=False)
    tokens_per_row: int | None = None


class Task(Knobs, ABC):
    """What runs train and how they are measured. The fields of a subclass are its knobs, each with a default.

    `version` is raised when the same knobs would train something else. `config_class` describes the model. `measures`
    maps every metric to its better direction; the knob `metric` of a subclass names the one that compares arms, without
    `val_`. `data_knobs` only say what the data are, whose content is hashed. `rows` says what a batch holds.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    summary: ClassVar[str]
    source_of_idea: ClassVar[str] = ""
    rows: ClassVar[str]
    config_class: ClassVar[type[ModelConfig]]
    data_knobs: ClassVar[tuple[str, ...]] = ()
    passes_per_evaluation: ClassVar[int] = 1  # forward passes over the validation data, for estimates of time

    metric: str

    @property
    @abstractmethod
    def measures(self) -> Mapping[str, Direction]:
        """Every metric of the runs, with its better direction."""

    @abstractmethod
    def describe(self, base: Path) -> DataInfo:
        """Describe the data. Relative paths start at the working directory, or else at `base`.

        Raises `DataError`, whose message begins with a knob where one is to blame: `task.path: ...`.
        """

    @abstractmethod
    def check_model(self, config: ModelConfig, data: DataInfo) -> None:
        """Raises `ConfigError` for a model that does not fit the data."""

    def check_training(self, train: TrainConfig) -> None:
        """Raises `ConfigError` for training settings that do not fit the task."""

    @abstractmethod
    def open(self, config: ModelConfig, base: Path) -> TrainingTask:
        """Read the data for training. Raises `DataError` as `describe` does."""

    def locate(self, base: Path) -> Self:  # noqa: ARG002 - a task may have no paths
        """Return the task with absolute paths, so that it also works in another working directory."""
        return self

    def idle(self) -> Mapping[str, str]:
        """Return the knobs that have no effect beside the others, each with the reason."""
        return {}

    @property
    def metrics(self) -> dict[str, Direction]:
        """The metrics of the runs. Arms are compared by the first."""
        first = f"val_{self.metric}"
        return {first: self.measures[first], **self.measures}

    def identity(self) -> dict[str, Any]:
        """Return what decides the results, beside the data: knobs at their defaults are left out."""
        passive = {"metric", *self.data_knobs, *self.idle()}
        knobs = self.model_dump(mode="json", exclude=passive, exclude_defaults=True)
        return {NAME: self.name, "version": self.version, **knobs}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `read_task` accepts."""
        return {NAME: self.name, "version": self.version, **self.model_dump(mode="json")}


def task_class(name: object) -> type[Task]:
    """Find a task by its name in the table. Raises `ConfigError` for any other name, and for `language_model`."""
    if not isinstance(name, str) or name not in TASKS:
        raise ConfigError(NAME, f"there is no task {quote(name)}{suggest(name, (LANGUAGE_MODEL, *TASKS))}")
    module, _, attribute = TASKS[name].partition(":")
    found: type[Task] = getattr(importlib.import_module(f".{module}", __package__), attribute)
    return found


def read_task(settings: Mapping[str, Any]) -> Task:
    """Make a task from plain data: its name and its knobs. Raises `ConfigError`, whose path is the knob."""
    cls = task_class(settings.get(NAME))
    version = settings.get("version", cls.version)
    if version != cls.version:
        raise ConfigError("version", f"{cls.name} was recorded as version {version}; this code has {cls.version}")
    knobs = {key: value for key, value in settings.items() if key not in (NAME, "version")}
    found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in knobs.items()}
    try:
        return cls(**found)
    except ValidationError as error:
        raise translate(error, cls) from None


def describe_tasks() -> dict[str, dict[str, Any]]:
    """Return name -> {summary, paper, version, knobs} of every task, the default first."""
    described = {LANGUAGE_MODEL: {"summary": "a GPT predicts the next token of `data`", "paper": "", "version": 1}}
    for name in TASKS:
        task = task_class(name)
        described[name] = {"summary": task.summary, "paper": task.source_of_idea, "version": task.version}
    knobs = {name: describe_knobs(task_class(name)) if name in TASKS else {} for name in described}
    return {name: {**entry, "knobs": knobs[name]} for name, entry in described.items()}


def knob_defaults(cls: type[BaseModel]) -> dict[str, Any]:
    """Return the default of every knob."""
    return {name: info.get_default(call_default_factory=True) for name, info in cls.model_fields.items()}
