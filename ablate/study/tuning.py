"""What a search may vary, and how it looks: shared by a search.yaml and by a grid's `tune:`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

Kind = Literal["float", "int", "categorical"]


class Frozen(BaseModel):
    """A strict, immutable part of a declaration: a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Parameter(Frozen):
    """The values that one setting may take: a range, or choices."""

    low: float | None = Field(None, description="lowest value")
    high: float | None = Field(None, description="highest value")
    log: bool = Field(False, description="even in the logarithm")
    step: float | None = Field(None, gt=0, description="distance between two values")
    choices: tuple[Any, ...] = Field((), description="the values themselves, in place of a range")
    type: Literal["float", "int"] | None = Field(None, description="default: the type of the setting's own default")
    when: str = Field("", description="an expression: the setting is varied only where it holds")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log or self.step or self.type:
                raise ValueError("choices stand alone: low, high, log, step and type belong to a range")
            if any(isinstance(choice, dict | list | tuple) for choice in self.choices):
                raise ValueError("a choice is a word, a number or a truth value")
            if len(set(map(repr, self.choices))) != len(self.choices):
                raise ValueError("a choice stands twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range needs low and high; or give choices")
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a range above zero, and low is {self.low:g}")
        if self.log and self.step:
            raise ValueError("a range is either log or has a step")
        if self.type == "int" and not all(float(v).is_integer() for v in (self.low, self.high, self.step or 1)):
            raise ValueError("low, high and step of an int are whole numbers")
        return self

    @property
    def values(self) -> tuple[Any, ...]:
        """Of choices all; of a range its ends and seven values between them."""
        if self.choices:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        if self.log:
            ratio = math.log(self.high / self.low)
            inner = [self.low * math.exp(ratio * part / 8) for part in range(1, 8)]
        else:
            inner = [self.low + (self.high - self.low) * part / 8 for part in range(1, 8)]
        return (self.low, self.high, *inner)


class Chosen(Frozen):
    """A class of Optuna's by its name, with the arguments of its constructor."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def arguments(self) -> Mapping[str, Any]:
        return dict(self.model_extra or {})


_PARAMETER_SCHEMA = {"anyOf": [{"$ref": "#/$defs/Parameter"}, {"type": "array", "minItems": 1}]}
_CHOSEN_SCHEMA = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Chosen"}]}

Space = dict[str, Annotated[Parameter, WithJsonSchema(_PARAMETER_SCHEMA)]]
ByName = Annotated[Chosen, WithJsonSchema(_CHOSEN_SCHEMA)]
Budget = Annotated[
    dict[str, Any],
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "object"}]}),
]


class Tuning(Frozen):
    """How to look for good settings: what a search and a grid's `tune:` have in common."""

    space: Space = Field(description="dotted path to the values that it may take")
    trials: int = Field(gt=0, le=100_000, description="configurations to try for each arm; the defaults are the first")
    budget: Budget = Field(
        {},
        description="a trial's steps (or `tokens`), and other settings of `train` for trials alone; default: none",
    )
    sampler: ByName = Field(Chosen(name="TPESampler"), description="Optuna's sampler by name, with its arguments")
    pruner: ByName = Field(Chosen(name="NopPruner"), description="Optuna's pruner by name, with its arguments")

    @field_validator("space", mode="before")
    @classmethod
    def _read_lists(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if not value:
            raise ValueError("the space is empty: name at least one dotted path with its values")
        return {path: {"choices": entry} if isinstance(entry, list) else entry for path, entry in value.items()}

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _read_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("budget", mode="before")
    @classmethod
    def _read_steps(cls, value: object) -> object:
        return {"steps": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("budget")
    @classmethod
    def _has_one_length(cls, value: dict[str, Any]) -> dict[str, Any]:
        if {"steps", "tokens"} <= set(value):
            raise ValueError("steps and tokens say the same thing: give one of them")
        tokens = value.get("tokens", 1)
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise ValueError(f"tokens is a whole number of at least 1, got {tokens!r}")
        return value


class Tune(Tuning):
    """A grid's `tune:`: every arm gets the same trials over the same space, then trains at its best."""

    seeds: int = Field(1, gt=0, le=1000, description="runs a trial, with seeds that the matrix does not use")
