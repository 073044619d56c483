"""The plan of a study: its arms and runs, and everything else that is known before training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ablate.data import CorpusInfo
from ablate.metrics import Direction
from ablate.plan.identity import run_id
from ablate.plan.setup import Setup, model_setup
from ablate.plan.start import Parent, Start
from ablate.plan.tasks import metrics_of
from ablate.study.declaration import Declaration, Design, Match, Study
from ablate.study.schema import TrainConfig
from ablate.study.seeds import UntilDecided
from ablate.tracking.arm_labels import largest_level
from ablate_model import ModelConfig
from ablate_model.own_code import Code

if TYPE_CHECKING:
    from ablate.evaluation.choose import Choice


@dataclass(frozen=True)
class Arm:
    """One cell of the matrix, fully resolved.

    `axes` maps each axis that exists for the arm to the label of its level; `within` does so for `compare_within`.
    `baseline` is the name of the arm that it is compared with: its own for a baseline.
    """

    name: str
    axes: Mapping[str, Any]
    within: Mapping[str, Any]
    baseline: str
    setup: Setup
    notices: tuple[str, ...]
    identity: str
    start: Start | None = None  # the weights that its runs start from

    @property
    def model(self) -> ModelConfig:
        """The model of an arm that trains one of ablate's."""
        return model_setup(self.setup).model

    @property
    def train(self) -> TrainConfig:
        """The training of an arm that trains one of ablate's models."""
        return model_setup(self.setup).train

    @property
    def n_steps(self) -> int | None:
        return self.setup.n_steps

    @property
    def n_params(self) -> int | None:
        return self.setup.n_params

    @property
    def flops_per_token(self) -> int | None:
        """FLOPs per token of a training step, forward and backward."""
        return self.setup.flops_per_token

    @property
    def n_tokens(self) -> int | None:
        """Training tokens of a run of the arm."""
        return self.setup.n_tokens


@dataclass(frozen=True)
class Run:
    """One training run: an arm with a seed, and the weights that it starts from, unless it starts fresh."""

    run_id: str
    arm: Arm
    seed: int
    parent: Parent | None = None

    @classmethod
    def of(cls, arm: Arm, seed: int) -> Run:
        parent = arm.start.parents[seed] if arm.start is not None else None
        return cls(run_id(arm.identity, seed, parent.identity if parent is not None else ""), arm, seed, parent)


@dataclass(frozen=True)
class Plan:
    """The arms and the runs of a study, ordered by seed, so that early results are comparable.

    With `until: decided`, these are the runs before the first look.
    """

    study: Declaration
    corpus: CorpusInfo
    axes: Mapping[str, tuple[Any, ...]]
    baseline: Mapping[str, Any]
    arms: tuple[Arm, ...]
    runs: tuple[Run, ...]
    notices: tuple[str, ...]
    design: Design = "full"
    match: Match = "none"
    compare_within: tuple[str, ...] = ()
    tuning: Mapping[str, Any] = field(default_factory=dict)  # the search for settings, if there was one
    # name of a dropped arm -> name of the arm with the same configuration
    stands_for: Mapping[str, str] = field(default_factory=dict)
    evaluations: tuple[Choice, ...] = ()  # they do not change the training, so they are in no identity

    @property
    def grid(self) -> Study:
        """The grid that the plan was built from. Not for the plans of a search."""
        assert isinstance(self.study, Study)
        return self.study

    @cached_property
    def codes(self) -> Sequence[Code]:
        """The user's files that the runs execute."""
        return list({code.version: code for arm in self.arms for code in arm.setup.codes}.values())

    @property
    def metrics(self) -> Mapping[str, Direction]:
        """The metrics of the runs, with the better direction of each. Arms are compared by the first."""
        return metrics_of(self.study)

    @property
    def predict(self) -> Mapping[str, str]:
        """The axis whose largest level is held out, if the grid names one. It changes reports, never a run."""
        declared = self.study.predict if isinstance(self.study, Study) else None
        return {} if declared is None else declared.model_dump()

    @property
    def held_out(self) -> frozenset[str]:
        """The arms at the level that is held out, which are trained last."""
        if (axis := self.predict.get("axis")) is None:
            return frozenset()
        largest = largest_level(self.arms, axis)
        return frozenset(arm.name for arm in self.arms if arm.axes.get(axis) == largest)

    @property
    def smallest_effect(self) -> float | None:
        """The smallest difference that matters, if the grid gives it. It changes verdicts, never a run."""
        return self.study.smallest_effect if isinstance(self.study, Study) else None

    @property
    def until_decided(self) -> UntilDecided | None:
        """The rule by which arms get further seeds; None if their number is fixed."""
        return self.study.until_decided if isinstance(self.study, Study) else None

    @property
    def possible_runs(self) -> tuple[Run, ...]:
        """The runs, with those that looks may add."""
        known = {(run.arm.name, run.seed): run for run in self.runs}
        every = [(arm, seed) for seed in self.study.seeds for arm in self.arms] if self.until_decided else []
        more = [Run.of(arm, seed) for arm, seed in every if (arm.name, seed) not in known]
        return (*self.runs, *more)

    @cached_property
    def total_flops(self) -> int | None:
        """The FLOPs of all runs; None if those of some arm are unknown."""
        parts = [(run.arm.flops_per_token, run.arm.n_tokens) for run in self.runs]
        known = [flops * tokens for flops, tokens in parts if flops is not None and tokens is not None]
        return sum(known) if len(known) == len(parts) else None
