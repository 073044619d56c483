"""One arm's search in Optuna: its trials, its distinct configurations, and its best trial."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ablate.search.space import ArmSpace, Params
from ablate.study.settings import value_key

ARM = "arm"  # user attribute of a trial: the name of its arm in the study's record
DEFAULTS = "defaults"  # user attribute of the trial that trains the defaults
IMPOSSIBLE = "impossible"  # user attribute of a trial with incompatible settings: the reason


@dataclass(eq=False)
class ArmSearch:
    """One arm's search: its space, Optuna's study, and the trials that are in training, by the name of their arm.

    `finals` has the value of each finalist over all seeds, or None while it trains. Optuna only knows the value with
    the first seed, which all trials have.
    """

    space: ArmSpace
    study: optuna.Study
    running: dict[str, list[optuna.Trial]] = field(default_factory=dict)
    finals: dict[str, float | None] = field(default_factory=dict)
    best: str = ""  # the arm of the best trial so far, whose weights are kept

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


def asked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were asked for, without those that were given up before they had an arm."""
    given_up = (TrialState.WAITING, TrialState.FAIL)
    return [trial for trial in trials if trial.state not in given_up or {ARM, IMPOSSIBLE} & set(trial.user_attrs)]


def distinct(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The first trial of each configuration that was asked for; the others share its runs."""
    found: dict[Hashable, FrozenTrial] = {}
    for trial in asked(trials):
        found.setdefault(trial.user_attrs.get(ARM) or value_key(trial.params), trial)
    return list(found.values())


def contained(space: ArmSpace, params: Params) -> dict[str, Any]:
    """The settings whose values lie in the space; a default may lie outside."""
    return {path: value for path, value in params.items() if space.parameters[path].holds(value)}


def rank(search: ArmSearch) -> list[FrozenTrial]:
    """The completed trials by the first objective, as Optuna knows it, the best first."""
    complete = [trial for trial in search.trials if trial.state == TrialState.COMPLETE]
    sign = sign_of(search)
    return sorted(complete, key=lambda trial: (sign * trial.values[0], trial.number))


def best_of(search: ArmSearch) -> FrozenTrial | None:
    """The best completed trial by the first objective, or None. Finalists that have run with all seeds come first."""
    ranked, sign = rank(search), sign_of(search)
    finals = {name: sign * value for name, value in search.finals.items() if value is not None}
    return min(ranked, key=lambda trial: finals.get(trial.user_attrs.get(ARM, ""), math.inf), default=None)


def sign_of(search: ArmSearch) -> int:
    """1 if lower values of the first objective are better, -1 if higher ones are."""
    return 1 if search.study.directions[0] == optuna.study.StudyDirection.MINIMIZE else -1
