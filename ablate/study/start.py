"""The `start_from:` section: the finished weights that each run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from ablate.formatting import quote
from ablate.study.schema import Texts
from ablate.study.tuning import Frozen

SEED = "seed"  # the entry of `match` that pairs runs by their seed


class StartFrom(Frozen):
    """The runs of another study, or one folder of weights. Exactly one of the two is given."""

    study: str | None = Field(
        None,
        min_length=1,
        description="a finished study: its folder, relative to the grid or the working directory, or its name",
    )
    match: Texts = Field(
        (),
        description="axes in which a run equals the run that it starts from, and seed; enough to name one run for each",
        examples=[["attention", "normalization", "seed"]],
    )
    folder: str | None = Field(
        None,
        min_length=1,
        description="instead of a study: a folder that ablate_model.save wrote, for every run",
    )
    runs: SkipJsonSchema[Path | None] = Field(None, exclude=True)  # the folder of all studies, known to the command
    # seed of a trial -> the seed whose run it starts from
    stand_ins: SkipJsonSchema[Mapping[int, int]] = Field({}, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _is_declared(cls, value: object) -> object:
        """Refuse what only the command sets."""
        for key in ("runs", "stand_ins"):
            if isinstance(value, dict) and key in value:
                raise ValueError(f"unknown key {quote(key)} (legal: study, match, folder)")
        return value

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.study is None) == (self.folder is None):
            raise ValueError("name either a study, as in {study: runs/pretrain, match: [seed]}, or a folder of weights")
        if self.folder is not None and self.match:
            raise ValueError("a folder holds one model, so there is nothing to match")
        if len(set(self.match)) < len(self.match):
            raise ValueError("match lists an entry twice")
        return self

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes to match."""
        return tuple(name for name in self.match if name != SEED)

    def parent_seed(self, seed: int) -> int:
        """The seed of the run that a run of this seed starts from, if they are matched by seed."""
        return self.stand_ins.get(seed, seed)
