"""The space, budget and sampler of a search, as a search.yaml and a grid's `tune:` declare them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ablate.formatting import quote
from ablate.study.settings import find_same, value_key

EDGE = 0.05  # share of a range at each end that counts as its edge
MAX_SEEDS = 1000  # of a trial, or of a confirmation
GRID = "GridSampler"  # it draws nothing
MAX_TRIALS = 100_000
ON_GRID = 1e-9  # tolerance for binary rounding, in steps


class Frozen(BaseModel):
    """A strict, immutable part of a declaration: a misspelled key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Strict(Frozen):
    """A part that is also strict about types: neither 100.0 nor "100" is a number of steps, and true is no number."""

    model_config = ConfigDict(strict=True)


class Parameter(Strict):
    """The values that one setting may take: a range, or choices."""

    low: float | None = Field(None, description="lowest value")
    high: float | None = Field(None, description="highest value")
    log: bool = Field(False, description="draw evenly on a logarithmic scale")
    step: float | None = Field(None, gt=0, description="distance between neighboring values")
    choices: tuple[Any, ...] = Field((), strict=False, description="a list of values instead of a range")
    type: Literal["float", "int"] | None = Field(None, description="default: the type of the setting's default")
    when: str = Field("", description="expression; the setting is varied only where it holds")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log or self.step or self.type:
                raise ValueError("choices take no low, high, log, step or type, which belong to a range")
            if any(isinstance(choice, dict | list | tuple | None) for choice in self.choices):
                raise ValueError("a choice must be a word, a number, true or false")
            if len(set(map(value_key, self.choices))) != len(self.choices):
                raise ValueError("a choice is listed twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range needs low and high; or give choices")
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a range above zero, and low is {self.low:g}")
        if self.log and self.step:
            raise ValueError("a range can have either log or step, not both")
        if self.step and not self.holds(self.high):
            last = self.low + self.step * math.floor((self.high - self.low) / self.step)
            raise ValueError(
                f"steps of {self.step:g} from {self.low:g} do not meet high {self.high:g}: set high to {last:g}"
            )
        if self.type == "int" and not all(float(v).is_integer() for v in (self.low, self.high, self.step or 1)):
            raise ValueError("low, high and step of an int must be whole numbers")
        return self

    @property
    def values(self) -> tuple[Any, ...]:
        """All choices, or the ends of the range and up to seven values between them."""
        if self.choices:
            return self.choices
        inner = [self.at(part / 8) for part in range(1, 8)]
        values = (self.low, self.high, *inner)
        return tuple(dict.fromkeys(round(value) for value in values if value is not None)) if self.is_int else values

    @property
    def ends(self) -> tuple[Any, ...]:
        """All choices, or both ends of the range: if they can be trained, so can the values between them."""
        return self.choices or self.values[:2]

    @property
    def is_int(self) -> bool:
        return self.type == "int"

    def at(self, share: float) -> float:
        """The value at a share of the range, from 0 to 1."""
        assert self.low is not None
        assert self.high is not None
        if self.log:
            return self.low * math.exp(share * math.log(self.high / self.low))
        return self.low + (self.high - self.low) * share

    def share_of(self, value: float) -> float:
        """The position of a value in the range, from 0 to 1."""
        assert self.low is not None
        assert self.high is not None
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def holds(self, value: Any) -> bool:
        """Tell if a value, such as a default, could be drawn."""
        if self.choices:
            return find_same(value, self.choices) is not None
        if isinstance(value, bool) or not isinstance(value, int | float) or (self.log and value <= 0):
            return False
        assert self.low is not None
        assert self.high is not None
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and abs(steps - round(steps)) < ON_GRID

    def is_edge(self, value: Any) -> bool:
        """Tell if there may be a better value beyond a best value.

        It then lies in the outermost twentieth of its range, or is the smallest or largest of several numbers."""
        if self.choices:
            return self.is_ladder and value in (min(self.choices), max(self.choices))
        return not EDGE <= self.share_of(value) <= 1 - EDGE

    @property
    def is_ladder(self) -> bool:
        """Tell if the choices are at least three numbers, so that one lies between two others."""
        are_numbers = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in self.choices)
        return len(self.choices) > 2 and are_numbers


class Chosen(Frozen):
    """The name of an Optuna class, with the arguments of its constructor."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def arguments(self) -> Mapping[str, Any]:
        return dict(self.model_extra or {})


def _read_list(value: object) -> object:
    return {"choices": value} if isinstance(value, list) else value


def read_name(value: object) -> object:
    """A name alone is short for the mapping that holds it."""
    return {"name": value} if isinstance(value, str) else value


def _read_steps(value: object) -> object:
    return {"steps": value} if isinstance(value, int) and not isinstance(value, bool) else value


Entry = Annotated[Parameter, BeforeValidator(_read_list, json_schema_input_type=Parameter | list[Any])]
ByName = Annotated[Chosen, BeforeValidator(read_name, json_schema_input_type=str | Chosen)]
Budget = Annotated[dict[str, Any], BeforeValidator(_read_steps, json_schema_input_type=int | dict[str, Any])]


class Tuning(Frozen):
    """How to look for good settings: what a search and a grid's `tune:` have in common.

    `SECTION` is where the keys below stand in the file.
    """

    SECTION: ClassVar[tuple[str, ...]] = ()

    space: dict[str, Entry] = Field(description="dotted path to its values: a range or choices")
    trials: int = Field(
        gt=0, le=MAX_TRIALS, strict=True, description="configurations to try per arm; the defaults come first"
    )
    budget: Budget = Field(
        {},
        description="`steps` (or `tokens`) of a trial, and settings of `train` that only trials use; default: none",
    )
    sampler: ByName = Field(
        Chosen(name="TPESampler"),
        description=f"name of an Optuna sampler, with its arguments; {GRID}: each combination of the choices once",
    )
    pruner: ByName = Field(Chosen(name="NopPruner"), description="name of an Optuna pruner, with its arguments")

    @property
    def is_grid(self) -> bool:
        """Tell if the trials are all combinations of the choices, so that none is drawn."""
        return self.sampler.name == GRID

    @field_validator("space")
    @classmethod
    def _has_settings(cls, value: dict[str, Parameter]) -> dict[str, Parameter]:
        if not value:
            raise ValueError("the space is empty: name at least one dotted path with its values")
        return value

    @field_validator("budget")
    @classmethod
    def _has_one_length(cls, value: dict[str, Any]) -> dict[str, Any]:
        if {"steps", "tokens"} <= set(value):
            raise ValueError("steps and tokens mean the same thing: give one of them")
        tokens = value.get("tokens", 1)
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise ValueError(f"tokens must be a whole number of at least 1, got {quote(tokens)}")
        return value


class FreshSeeds(Frozen):
    """Seeds that no other run has used: a number of them, or a list."""

    seeds: int | tuple[int, ...]

    @field_validator("seeds", mode="before")
    @classmethod
    def _is_count_or_list(cls, value: object) -> object:
        """Give one message, because the union's two parts would give one each."""
        seeds = list(value) if isinstance(value, list | tuple) else [value]
        if not seeds or any(type(s) is not int or not 0 <= s < 2**63 for s in seeds) or len({*seeds}) < len(seeds):
            raise ValueError(f"must be a number of fresh seeds, or a list of distinct ones, got {quote(value)}")
        if isinstance(value, int) and value > MAX_SEEDS:
            raise ValueError(f"{value} is more than {MAX_SEEDS} seeds; for one seed of that value, write [{value}]")
        return value

    def fresh_seeds(self, used: tuple[int, ...]) -> tuple[int, ...]:
        """The listed seeds, or the wanted number of seeds after the largest used one."""
        if isinstance(self.seeds, int):
            return tuple(range(max(used) + 1, max(used) + 1 + self.seeds))
        return self.seeds


class Tune(Tuning, FreshSeeds):
    """A grid's `tune:` section: every arm gets the same number of trials in the same space, then trains at its best."""

    SECTION: ClassVar[tuple[str, ...]] = ("tune",)

    seeds: int | tuple[int, ...] = Field(
        1,
        description="runs per trial: a number of seeds after the matrix's, or a list of seeds that the matrix does not "
        "use; with a list, the matrix can get more seeds later without new trials",
    )

    finalists: int | None = Field(
        None,
        gt=0,
        strict=True,
        description="how many trials per arm run with all seeds: the best with the first seed; default: all",
    )
    screen: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of its steps after which a trial waits until the finalists are chosen; default: at its end",
    )

    @field_validator("seeds")
    @classmethod
    def _has_some(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if value == 0:
            raise ValueError(f"a trial must have 1 to {MAX_SEEDS} runs, got {value}")
        return value

    @model_validator(mode="after")
    def _has_a_final(self) -> Self:
        n_seeds = self.seeds if isinstance(self.seeds, int) else len(self.seeds)
        if self.screen is not None and self.finalists is None:
            raise ValueError("screen says when the finalists are chosen: give finalists too")
        if self.screen is not None and self.pruner.name != "NopPruner":
            raise ValueError("trials are stopped by screen or by a pruner: give one of them")
        if self.finalists is not None and n_seeds == 1 and self.screen is None:
            raise ValueError("finalists run with more seeds than the first, or for longer: give two seeds, or screen")
        if self.finalists is not None and self.finalists >= self.trials:
            raise ValueError(f"{self.finalists} finalists of {self.trials} trials: give fewer, or leave finalists out")
        return self
