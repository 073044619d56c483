"""The seeds of a grid or a search: a number, a list, or as many as it takes to decide every arm."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from ablate.formatting import quote
from ablate.study.tuning import Strict

MAX_SEEDS = 10_000
_NO_SEEDS = (bool, float, str, dict, type(None))  # what YAML can hold besides a number and a list
MAX_LOOKS_SEEDS = 50  # each look needs a boundary, and a study with more seeds has better uses for them


def _count_to_list(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        if value > MAX_SEEDS:
            raise ValueError(
                f"{value} is more than {MAX_SEEDS} seeds; for one seed of that value, write seeds: [{value}]"
            )
        return tuple(range(value))
    if isinstance(value, _NO_SEEDS):
        raise ValueError(f"must be a number of seeds or a list of seeds, got {quote(value)}")
    return value


def _check_seeds(value: tuple[int, ...]) -> tuple[int, ...]:
    if not value or min(value) < 0 or max(value) >= 2**63 or len(set(value)) != len(value):
        raise ValueError("seeds must be a number of at least 1, or a list of distinct numbers from 0 to 2^63 - 1")
    return value


SEEDS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
    ]
}

Seeds = Annotated[
    tuple[Annotated[int, Field(strict=True)], ...],
    BeforeValidator(_count_to_list),
    AfterValidator(_check_seeds),
    WithJsonSchema(SEEDS_SCHEMA),
]


class UntilDecided(Strict):
    """Train further seeds of every arm until it is better, worse or equivalent."""

    at_least: int = Field(3, ge=3, le=MAX_LOOKS_SEEDS, description="seeds before the first look")
    at_most: int = Field(ge=4, le=MAX_LOOKS_SEEDS, description="seeds after which an arm stays undecided")
    until: Literal["decided"] = Field(description="an arm stops training once it is better, worse or equivalent")

    @model_validator(mode="after")
    def _has_looks(self) -> Self:
        if self.at_least >= self.at_most:
            raise ValueError(f"at_least {self.at_least} must be below at_most {self.at_most}")
        return self


class SeedsUntilDecided(tuple[int, ...]):
    """All seeds that a grid with `until: decided` may train: 0, 1, 2 and so on, without those of its trials."""

    rule: UntilDecided
    reserved: tuple[int, ...]

    def __new__(cls, rule: UntilDecided, reserved: tuple[int, ...] = ()) -> Self:
        seeds = super().__new__(cls, islice((seed for seed in count() if seed not in reserved), rule.at_most))
        seeds.rule, seeds.reserved = rule, reserved
        return seeds


@dataclass(frozen=True)
class MappingForm:
    """Marks a field whose value may also be a mapping, with the keys of a model."""

    model: type[BaseModel]


def _read_rule(value: object, read: ValidatorFunctionWrapHandler) -> tuple[int, ...]:
    if isinstance(value, dict):
        return SeedsUntilDecided(UntilDecided.model_validate(value))
    if isinstance(value, _NO_SEEDS):
        forms = "a number of seeds, a list of seeds, or {at_least: ..., at_most: ..., until: decided}"
        raise ValueError(f"must be {forms}, got {quote(value)}")
    seeds: tuple[int, ...] = read(value)
    return seeds


GridSeeds = Annotated[
    Seeds,
    MappingForm(UntilDecided),
    WrapValidator(_read_rule),
    WithJsonSchema({"anyOf": [*SEEDS_SCHEMA["anyOf"], UntilDecided.model_json_schema()]}),
]
