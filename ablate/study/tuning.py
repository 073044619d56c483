"""What a search may vary, and how it looks: shared by a search.yaml and by a grid's `tune:`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ablate.formatting import quote
from ablate.study.settings import find_same, value_key

EDGE = 0.05  # share of a range that counts as its edge
MAX_SEEDS = 1000  # of a trial, or of a confirmation
GRID = "GridSampler"  # the one that draws nothing
MAX_TRIALS = 100_000
ON_GRID = 1e-9  # how far from a whole number of steps a value may be, for rounding in binary


class Frozen(BaseModel):
    """A strict, immutable part of a declaration: a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Strict(Frozen):
    """Also strict about types: 100.0 and "100" are no number of steps, and true is no number at all."""

    model_config = ConfigDict(strict=True)


class Parameter(Strict):
    """The values that one setting may take: a range, or choices."""

    low: float | None = Field(None, description="lowest value")
    high: float | None = Field(None, description="highest value")
    log: bool = Field(False, description="even in the logarithm")
    step: float | None = Field(None, gt=0, description="distance between two values")
    choices: tuple[Any, ...] = Field((), strict=False, description="the values themselves, in place of a range")
    type: Literal["float", "int"] | None = Field(None, description="default: the type of the setting's own default")
    when: str = Field("", description="an expression: the setting is varied only where it holds")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log or self.step or self.type:
                raise ValueError("choices stand alone: low, high, log, step and type belong to a range")
            if any(isinstance(choice, dict | list | tuple | None) for choice in self.choices):
                raise ValueError("a choice is a word, a number or a truth value")
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
            raise ValueError("a range is either log or has a step")
        if self.step and not self.holds(self.high):
            last = self.low + self.step * math.floor((self.high - self.low) / self.step)
            raise ValueError(f"steps of {self.step:g} from {self.low:g} do not meet high {self.high:g}: say {last:g}")
        if self.type == "int" and not all(float(v).is_integer() for v in (self.low, self.high, self.step or 1)):
            raise ValueError("low, high and step of an int are whole numbers")
        return self

    @property
    def values(self) -> tuple[Any, ...]:
        """Of choices all; of a range its ends and up to seven values between them."""
        if self.choices:
            return self.choices
        inner = [self.at(part / 8) for part in range(1, 8)]
        values = (self.low, self.high, *inner)
        return tuple(dict.fromkeys(round(value) for value in values if value is not None)) if self.is_int else values

    @property
    def ends(self) -> tuple[Any, ...]:
        """Of choices all, of a range both ends: where they can be trained, what is between them can."""
        return self.choices or self.values[:2]

    @property
    def is_int(self) -> bool:
        return self.type == "int"

    def at(self, share: float) -> float:
        """The value at a share, 0 to 1, of the range."""
        assert self.low is not None
        assert self.high is not None
        if self.log:
            return self.low * math.exp(share * math.log(self.high / self.low))
        return self.low + (self.high - self.low) * share

    def share_of(self, value: float) -> float:
        """Where in the range a value lies, from 0 to 1."""
        assert self.low is not None
        assert self.high is not None
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def holds(self, value: Any) -> bool:
        """Whether a value, such as a default, is one that could be drawn."""
        if self.choices:
            return find_same(value, self.choices) is not None
        if isinstance(value, bool) or not isinstance(value, int | float) or (self.log and value <= 0):
            return False
        assert self.low is not None
        assert self.high is not None
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and abs(steps - round(steps)) < ON_GRID

    def is_edge(self, value: Any) -> bool:
        """Whether a best value lies in the outermost twentieth of its range, or is the first or the last of several
        numbers to choose from: there may be a better one beyond."""
        if self.choices:
            return self.is_ladder and value in (min(self.choices), max(self.choices))
        return not EDGE <= self.share_of(value) <= 1 - EDGE

    @property
    def is_ladder(self) -> bool:
        """Whether the choices are numbers, of which one can lie between two others."""
        are_numbers = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in self.choices)
        return len(self.choices) > 2 and are_numbers


class Chosen(Frozen):
    """A class of Optuna's by its name, with the arguments of its constructor."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def arguments(self) -> Mapping[str, Any]:
        return dict(self.model_extra or {})


def _read_list(value: object) -> object:
    return {"choices": value} if isinstance(value, list) else value


def _read_name(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _read_steps(value: object) -> object:
    return {"steps": value} if isinstance(value, int) and not isinstance(value, bool) else value


Entry = Annotated[Parameter, BeforeValidator(_read_list, json_schema_input_type=Parameter | list[Any])]
ByName = Annotated[Chosen, BeforeValidator(_read_name, json_schema_input_type=str | Chosen)]
Budget = Annotated[dict[str, Any], BeforeValidator(_read_steps, json_schema_input_type=int | dict[str, Any])]


class Tuning(Frozen):
    """How to look for good settings: what a search and a grid's `tune:` have in common.

    `SECTION` is where the keys below stand in the file.
    """

    SECTION: ClassVar[tuple[str, ...]] = ()

    space: dict[str, Entry] = Field(description="dotted path to the values that it may take")
    trials: int = Field(
        gt=0, le=MAX_TRIALS, strict=True, description="configurations to try for each arm; the defaults are the first"
    )
    budget: Budget = Field(
        {},
        description="a trial's steps (or `tokens`), and other settings of `train` for trials alone; default: none",
    )
    sampler: ByName = Field(
        Chosen(name="TPESampler"),
        description=f"Optuna's sampler by name, with its arguments; {GRID}: every combination of the choices, once",
    )
    pruner: ByName = Field(Chosen(name="NopPruner"), description="Optuna's pruner by name, with its arguments")

    @property
    def is_grid(self) -> bool:
        """Whether the trials are all combinations of choices, and none is drawn."""
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
            raise ValueError("steps and tokens say the same thing: give one of them")
        tokens = value.get("tokens", 1)
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise ValueError(f"tokens is a whole number of at least 1, got {quote(tokens)}")
        return value


class FreshSeeds(Frozen):
    """Seeds that other runs have not used: how many, or which."""

    seeds: int | tuple[int, ...]

    @field_validator("seeds", mode="before")
    @classmethod
    def _is_count_or_list(cls, value: object) -> object:
        """One message, where the union's two parts would give one each."""
        seeds = list(value) if isinstance(value, list | tuple) else [value]
        if not seeds or any(type(s) is not int or not 0 <= s < 2**63 for s in seeds) or len({*seeds}) < len(seeds):
            raise ValueError(f"must be a number of fresh seeds, or a list of distinct ones, got {quote(value)}")
        if isinstance(value, int) and value > MAX_SEEDS:
            raise ValueError(f"{value} is a number of seeds, at most {MAX_SEEDS}; a seed of that value is [{value}]")
        return value

    def fresh_seeds(self, used: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the list, or as many as wanted after the largest that was used."""
        if isinstance(self.seeds, int):
            return tuple(range(max(used) + 1, max(used) + 1 + self.seeds))
        return self.seeds


class Tune(Tuning, FreshSeeds):
    """A grid's `tune:`: every arm gets the same trials over the same space, then trains at its best."""

    SECTION: ClassVar[tuple[str, ...]] = ("tune",)

    seeds: int | tuple[int, ...] = Field(
        1,
        description="runs a trial: a number of seeds after the matrix's, or a list of seeds that it does not use, "
        "with which the matrix may get more seeds without new trials",
    )

    @field_validator("seeds")
    @classmethod
    def _has_some(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if value == 0:
            raise ValueError(f"a trial has 1 to {MAX_SEEDS} runs, got {value}")
        return value
