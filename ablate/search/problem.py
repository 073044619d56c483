"""A search that is ready to run: its arms with their spaces, and the training that it tunes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan.identity import run_id
from ablate.plan.resolve import Resolver
from ablate.plan.tasks import make_resolver
from ablate.search.schema import Confirm, Objective
from ablate.search.space import ArmSpace
from ablate.study.declaration import Declaration
from ablate.study.schema import TrainConfig
from ablate.study.settings import find_same, is_same
from ablate.study.tuning import Tune, Tuning
from ablate.tracking.study_record import StudyRecord

ROUNDING = 1e-9  # of a share of steps that is whole


@dataclass(frozen=True)
class Problem:
    """A search. `study` has the training of a trial, `whole` the training that the search tunes."""

    study: Declaration
    whole: Declaration
    tuning: Tuning
    objectives: tuple[Objective, ...]
    arms: tuple[ArmSpace, ...]
    corpus: CorpusInfo
    storage: str = ""
    confirm: Confirm | None = None

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of a trial."""
        return self.study.seeds

    @property
    def n_finalists(self) -> int | None:
        """How many trials per arm run with all seeds; None for all of them."""
        return self.tuning.finalists if isinstance(self.tuning, Tune) else None

    @property
    def first_seeds(self) -> tuple[int, ...]:
        """The seeds with which every trial runs, whether it becomes a finalist or not."""
        return self.seeds if self.n_finalists is None else self.seeds[:1]

    @property
    def final_seeds(self) -> tuple[int, ...]:
        """The seeds whose runs are left to train once the finalists are known."""
        return self.seeds[1:] if self.screen is None else self.seeds

    @property
    def screen(self) -> float | None:
        """The share of its steps after which a trial waits until the finalists are chosen; None for the end."""
        return self.tuning.screen if isinstance(self.tuning, Tune) else None

    def screen_step(self, train: TrainConfig) -> int:
        """The step of an evaluation after which a trial waits; the last step where it does not wait."""
        if self.screen is None:
            return train.steps
        return min(train.steps, train.eval_every * math.ceil(self.screen * train.steps / train.eval_every - ROUNDING))

    @property
    def n_trials(self) -> int:
        return sum(arm.count_trials(self.tuning) for arm in self.arms)

    @property
    def confirmed(self) -> Declaration:
        """The declaration with the training of the confirmation: the file's, except for its number of steps."""
        steps = self.confirm.steps if self.confirm else None
        try:
            return self.study.train_like(self.whole, steps)
        except ValueError as error:
            raise self.study.refuse(("confirm", "steps"), str(error)) from None

    @property
    def confirming(self) -> Resolver:
        """The resolver for the arms of the confirmation."""
        return make_resolver(self.confirmed, self.arms[0].axes, self.corpus)

    def check_horizon(self) -> None:
        """Raises `GridError` where settings of the space cannot be trained for as long as the search is for."""
        resolver = self.confirming
        for arm in self.arms:
            trained = {path: parameter for path, parameter in arm.parameters.items() if path.startswith("train.")}
            ends = [{path: value} for path, parameter in trained.items() for value in parameter.ends]
            for params in ({}, *ends):
                resolver.resolve(arm.assign(params))

    def check_record(self, record: StudyRecord) -> None:
        """Raises `GridError` where the record belongs to another search."""
        mine, theirs = self.declaration(), dict(record.tuning)
        if "space" not in theirs:
            message = f"a study named {self.name!r} was run before: give this search another name"
            raise GridError(f"{self.study.file}: {message}")
        before = theirs.get("defaults", {})
        mine["defaults"] = {label: mine["defaults"].get(label, known) for label, known in before.items()}
        if self.tuning.is_grid and _is_wider(mine["space"], theirs.get("space", {})):
            theirs["space"] = mine["space"]
        mine = {"finalists": None, "screen": None, **mine}
        for key, value in mine.items():
            if not is_same(theirs.get(key), value):
                what = "`model`, `train`, `budget`, `data` or `rules`" if key == "defaults" else f"`{key}`"
                raise GridError(
                    f"{self.study.file}: {self.name} was run before with other {what}: "
                    "undo that change, or give this search another name"
                )

    def declaration(self) -> dict[str, Any]:
        """Everything in which two searches must agree for their trials to be comparable, as the record keeps it."""
        return {
            "space": {
                path: parameter.model_dump(exclude_defaults=True) for path, parameter in self.tuning.space.items()
            },
            "defaults": {arm.label: run_id(arm.identify(arm.default), 0) for arm in self.arms},
            "objectives": [objective.model_dump() for objective in self.objectives],
            "seeds": list(self.seeds),
            **self.describe_finals(),
        }

    def describe_finals(self) -> dict[str, Any]:
        """What a record and a summary say of finalists; nothing where all trials run with all seeds."""
        finals = {"finalists": self.n_finalists, "screen": self.screen}
        return {key: value for key, value in finals.items() if value is not None}


def _is_wider(space: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Tell if a space of choices has all choices of another one, so that its trials are trials of this space too."""
    return space.keys() == before.keys() and all(
        all(find_same(choice, parameter["choices"]) is not None for choice in before[path].get("choices", [None]))
        and parameter.get("when") == before[path].get("when")
        for path, parameter in space.items()
    )
