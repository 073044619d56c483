"""The `evaluations:` of a grid: names with knobs. `ablate.evaluation` checks them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ablate.study.tuning import Chosen, read_name

OWN_PATTERN = r"^[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*$"


def is_own(name: str) -> bool:
    """Tell if the name is that of a function in a user's file."""
    return re.match(OWN_PATTERN, name) is not None


class EvaluationEntry(Chosen):
    """An evaluation of the finished weights of every run, and with `every` also along training."""

    every: int | None = Field(None, gt=0, strict=True, description="steps between evaluations along training")

    smallest_effect: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {}, description="metric to the smallest difference that matters; arms that differ by less are equivalent"
    )

    @property
    def knobs(self) -> Mapping[str, Any]:
        return self.arguments


Entry = Annotated[EvaluationEntry, BeforeValidator(read_name, json_schema_input_type=str | EvaluationEntry)]
