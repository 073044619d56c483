"""The model of search.yaml: everything of a grid's base, and what to look for where."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from ablate.errors import GridError
from ablate.study.schema import DataConfig, Resources, Rule, Seeds, StudyName, TrainConfig
from ablate.study.tuning import FreshSeeds, Strict, Tuning
from ablate.study.yaml_source import KeyPath, Source


class Objective(Strict):
    """What a trial is judged by, as the mean over its seeds.

    Without a target, the last value of `metric` in the curves. With one, the steps that the run takes until `metric`
    is at most `target`; a run that does not come so far counts as its whole budget times 1 + what was missing.
    """

    metric: str = Field("val_loss", min_length=1, description="a column of the curve")
    target: float | None = Field(None, description="count the steps until the metric is at most this")
    direction: Literal["minimize", "maximize"] = Field("minimize", description="which way is better")

    @property
    def text(self) -> str:
        return self.metric if self.target is None else f"steps to {self.metric} {self.target:g}"

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.target is not None and self.direction == "maximize":
            raise ValueError("steps to a target are minimised")
        return self


class Confirm(FreshSeeds):
    """Best against default, trained anew with seeds that no trial used."""

    seeds: int | tuple[int, ...] = Field(
        3, description="a number of fresh seeds (0: no confirmation), or a list of them"
    )
    steps: int | None = Field(None, gt=0, strict=True, description="default: train.steps")
    defaults: Literal["all", "first"] = Field(
        "all", description="the arms whose defaults are trained beside their best"
    )


def _read_arms(value: object) -> object:
    return (value,) if isinstance(value, dict) else value


def _read_objectives(value: object) -> object:
    entries = value if isinstance(value, list | tuple) else (value,)
    return tuple({"metric": entry} if isinstance(entry, str) else entry for entry in entries)


Arms = Annotated[
    tuple[dict[str, Any], ...],
    BeforeValidator(_read_arms, json_schema_input_type=dict[str, Any] | list[dict[str, Any]]),
]
Objectives = Annotated[
    tuple[Objective, ...],
    BeforeValidator(_read_objectives, json_schema_input_type=str | Objective | list[str | Objective]),
]


class Search(Tuning):
    """One declared search."""

    search: StudyName = Field(description="the search's name, which is also its folder's")
    question: str = Field("", description="what the search asks, in a sentence")
    data: DataConfig = DataConfig()
    model: dict[str, Any] = Field(description="settings of ablate_model.ModelConfig")
    train: TrainConfig
    arm: Arms = Field((), description="levels of the axes that the search does not vary; a list: one Optuna study each")
    rules: tuple[Rule, ...] = Field((), description="settings for the arms for which an expression holds")
    resources: Resources = Resources()
    seeds: Seeds = Field((0,), description="runs a trial: a number of seeds, or a list of them")
    objective: Objectives = Field(
        (Objective(),), description="what is made small (or large); several give the best trade-offs"
    )
    storage: str = Field("", description="a storage URL of Optuna's; default: a journal file in the search's folder")
    confirm: Confirm = Field(Confirm(), description="best against default with fresh seeds")

    _source: Source = PrivateAttr(default_factory=Source)

    @field_validator("arm")
    @classmethod
    def _have_the_same_axes(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for arm in value:
            if set(arm) != set(value[0]) or not arm:
                raise ValueError("every arm names its level on the same axes, one at least")
        return value

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        fresh = self.confirm.fresh_seeds(self.seeds)
        if set(fresh) & set(self.seeds):
            raise ValueError(f"confirm.seeds {list(fresh)}: a confirmation needs seeds that no trial used")
        if not self.objective:
            raise ValueError("objective: name at least one")
        if len(set(self.objective)) < len(self.objective):
            raise ValueError("objective: one stands twice")
        return self

    def refuse(self, path: KeyPath, message: str) -> GridError:
        """The error to raise about the value at `path`, with the file and the line where it stands."""
        return GridError(f"{self._source.locate(path)}: {message}")
