"""Configurations in which every two settings meet, derived from the declarations of the variants.

A new knob, variant or model setting is covered without a change here.
"""

from __future__ import annotations

import itertools
import random
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cases import SIZES
from pydantic import BaseModel

from ablate_model import ConfigError, ModelConfig
from ablate_model.config import TABLES
from ablate_model.knobs import literal_values

Factors = Mapping[str, Sequence[Any]]  # dotted path into the model's mapping -> the values to try
Row = dict[str, Any]
LENGTH = 13  # of the sequences: longer than sdpa's padding and than each window
GIVEN = {"context_length": LENGTH}
UNTRIED = {*SIZES, "dropout", "weight_dtype"}  # dropout is off in eval mode; bfloat16 would round away the differences
NUMBERS: Mapping[type, Sequence[Any]] = {int: (1, 2), float: (0.5,)}
MORE_NUMBERS: Mapping[type, Sequence[Any]] = {int: (1, 2, 4), float: (0.0, 0.5, 2.0)}
LISTS: Mapping[str, Sequence[Any]] = {"dropped": ((), ("mlp/0",), ("attention/1",))}
MAX_TRIES = 10


def model_factors() -> Factors:
    """The variants of each axis, by name, and the settings outside the axes."""
    settings = {name: values for name, values in _field_values(ModelConfig, NUMBERS).items() if name not in UNTRIED}
    return {**{f"{axis}.name": list(table) for axis, table in TABLES.items()}, **settings, **LISTS}


def knob_factors(axis: str, variant: str, numbers: Mapping[type, Sequence[Any]] = NUMBERS) -> Factors:
    """The values of each knob of a variant."""
    knobs = _field_values(TABLES[axis].resolve(variant), numbers)
    return {f"{axis}.{knob}": values for knob, values in knobs.items()}


def _field_values(cls: type[BaseModel], numbers: Mapping[type, Sequence[Any]]) -> dict[str, list[Any]]:
    """The default of each field, all its words and flags, and some numbers; groups of knobs by field."""
    factors: dict[str, list[Any]] = {}
    for name, info in cls.model_fields.items():
        if name in TABLES or name in LISTS or info.is_required():
            continue
        default = None if cls is ModelConfig and name in UNTRIED else info.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            factors |= {f"{name}.{knob}": values for knob, values in _field_values(type(default), numbers).items()}
            continue
        kinds = {info.annotation, *typing.get_args(info.annotation)}
        flags = [False, True] if bool in kinds else []
        tried = [number for kind in kinds & numbers.keys() for number in numbers[kind]]
        factors[name] = list(dict.fromkeys([default, *literal_values(info.annotation), *flags, *tried]))
    return factors


def parse(row: Row, **given: Any) -> ModelConfig | None:
    """The model of a row, or None where the package refuses it."""
    mapping: dict[str, Any] = {**SIZES, **GIVEN, **given}
    for path, value in row.items():
        tree, parts = mapping, path.split(".")
        for part in parts[:-1]:
            tree = tree.setdefault(part, {})
        tree[parts[-1]] = value
    try:
        return ModelConfig.parse(mapping)
    except ConfigError:
        return None


def cover(factors: Factors, fixed: Row, free: Factors = {}) -> Iterator[Row]:  # noqa: B006 - never changed
    """Rows in which every two values meet, except pairs that the package refuses.

    `free` factors are not part of the model. Raises AssertionError for a pair that could not be placed although the
    package accepts it.
    """
    draw = random.Random(0)
    values = {**factors, **free}
    missing = {
        frozenset(((a, i), (b, j)))
        for a, b in itertools.combinations(values, 2)
        for i in range(len(values[a]))
        for j in range(len(values[b]))
    }
    while missing:
        pair = min(missing, key=sorted)
        for _ in range(MAX_TRIES):
            chosen = _complete(dict(pair), values, missing, fixed, free, draw)
            if _is_accepted(chosen, values, fixed, free):
                missing -= set(map(frozenset, itertools.combinations(chosen.items(), 2)))
                yield {**fixed, **{name: values[name][index] for name, index in chosen.items()}}
                break
        else:
            assert not _is_accepted(dict(pair), values, fixed, free), f"no model was found for {sorted(pair)}"
            missing.remove(pair)


def _is_accepted(chosen: Mapping[str, int], values: Factors, fixed: Row, free: Factors) -> bool:
    row = {name: values[name][index] for name, index in chosen.items() if name not in free}
    return parse({**fixed, **row}) is not None


def _complete(
    chosen: dict[str, int], values: Factors, missing: set[Any], fixed: Row, free: Factors, draw: random.Random
) -> dict[str, int]:
    """A value for every factor: the accepted value with the most missing pairs."""
    rest = [name for name in values if name not in chosen]
    draw.shuffle(rest)
    for name in rest:

        def gain(index: int, name: str = name) -> float:
            return sum(frozenset(((name, index), item)) in missing for item in chosen.items()) + draw.random()

        ranked = sorted(range(len(values[name])), key=gain, reverse=True)
        is_accepted = name in free or not _is_accepted(chosen, values, fixed, free)
        chosen[name] = next(
            (i for i in ranked if is_accepted or _is_accepted({**chosen, name: i}, values, fixed, free)), ranked[0]
        )
    return chosen
