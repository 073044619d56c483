"""The model of search.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ablate.metrics import Direction
from ablate.study.declaration import Declaration
from ablate.study.schema import StudyName
from ablate.study.seeds import Seeds
from ablate.study.tuning import FreshSeeds, Strict, Tuning


class Objective(Strict):
    """The score of a trial, averaged over its seeds.

    Without a target, the score is the last value of `metric`. With a target, it is the number of steps until `metric`
    is at least as good as `target`. A run that does not reach it counts as its whole budget times (1 + the missing
    difference).
    """

    metric: str = Field("val_loss", min_length=1, description="a column of the curve; default: the first metric")
    target: float | None = Field(None, description="score the steps until the metric is as good as this value")
    direction: Literal["minimize", "maximize"] = Field("minimize", description="the better direction")

    @property
    def text(self) -> str:
        return self.metric if self.target is None else f"steps to {self.metric} {self.target:g}"

    def complete(self, metrics: Mapping[str, Direction]) -> Self:
        """A copy with the name and the direction that were left out, from the metrics of the runs.

        Raises `ValueError` if the direction contradicts that of the metric.
        """
        name = self.metric if "metric" in self.model_fields_set else next(iter(metrics))
        known = metrics.get(name)
        if known is None or self.target is not None:
            return self.model_copy(update={"metric": name})
        direction = "maximize" if known == "higher" else "minimize"
        if "direction" in self.model_fields_set and self.direction != direction:
            raise ValueError(f"direction {self.direction}: the metric {name} is better if it is {known}")
        return self.model_copy(update={"metric": name, "direction": direction})

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.target is not None and self.direction == "maximize":
            raise ValueError("steps to a target are always minimized: leave out the direction")
        return self


class Confirm(FreshSeeds):
    """Best against default, trained again with seeds that no trial used."""

    seeds: int | tuple[int, ...] = Field(
        3, description="the number of fresh seeds (0: no confirmation), or a list of them"
    )
    steps: int | None = Field(None, gt=0, strict=True, description="default: train.steps")
    defaults: Literal["all", "first"] = Field("all", description="arms whose defaults are trained too")


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


class Search(Declaration, Tuning):
    """A search: everything in a grid except its matrix, plus the objective and the space to search."""

    KEY: ClassVar[str] = "search"

    search: StudyName = Field(description="name of the search and of its folder")
    arm: Arms = Field(
        (),
        description="levels of the axes that the search does not vary; a list of arms makes one Optuna study per arm",
    )
    seeds: Seeds = Field((0,), description="runs per trial: the number of seeds, or a list of them")
    objective: Objectives = Field(
        (Objective(),), description="what to minimize (or maximize); several objectives give the best trade-offs"
    )
    storage: str = Field("", description="storage URL for Optuna; default: a journal file in the search's folder")
    confirm: Confirm = Field(Confirm(), description="train the best against the default with fresh seeds")

    @field_validator("arm")
    @classmethod
    def _have_the_same_axes(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for arm in value:
            if set(arm) != set(value[0]) or not arm:
                raise ValueError("every arm must name its level on the same axes, at least one")
        return value

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        fresh = self.confirm.fresh_seeds(self.seeds)
        if set(fresh) & set(self.seeds):
            raise ValueError(f"confirm.seeds {list(fresh)}: a confirmation needs seeds that no trial used")
        if not self.objective:
            raise ValueError("objective: name at least one")
        if len(set(self.objective)) < len(self.objective):
            raise ValueError("objective: one is listed twice")
        return self
