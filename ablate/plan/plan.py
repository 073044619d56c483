"""`build_plan`: everything that is known about a study before training starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ablate.data import CHECKED_TOKENS, CorpusInfo
from ablate.metrics import Direction
from ablate.plan.axes import Assignment, Axes, arm_name
from ablate.plan.expand import Expansion, expand
from ablate.plan.identity import run_id
from ablate.plan.match import MatchError, match_size
from ablate.plan.remarks import (
    explain_merged,
    find_beyond,
    find_other_starts,
    find_overridden_values,
    find_short_evaluation,
    find_spare_vocabulary,
    find_uneven_split,
)
from ablate.plan.setup import ModelSetup, Resolved, Setup, identify_setups, model_setup
from ablate.plan.start import Parent, Start, check_parents
from ablate.plan.tasks import make_resolver, metrics_of, read_names
from ablate.study.declaration import Declaration, Design, Match, Study
from ablate.study.overlay import Overlay
from ablate.study.schema import TrainConfig
from ablate.study.seeds import UntilDecided
from ablate_model import ModelConfig
from ablate_model.own_code import Code

if TYPE_CHECKING:
    from ablate.evaluation.choose import Choice

MAX_RUNS = 1_000_000


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

    @property
    def total_flops(self) -> int | None:
        """The FLOPs of all runs; None if those of some arm are unknown."""
        parts = [(run.arm.flops_per_token, run.arm.n_tokens) for run in self.runs]
        known = [flops * tokens for flops, tokens in parts if flops is not None and tokens is not None]
        return sum(known) if len(known) == len(parts) else None


def build_plan(study: Study, corpus: CorpusInfo, overlays: Sequence[Overlay] = ()) -> Plan:
    """Expand the matrix, resolve the arms with the overlays, match their sizes and identify the runs.

    Raises `GridError` for everything that cannot work, naming the place in the grid, and `DataError` where the corpus
    is shorter than a context.
    """
    names = read_names(study, overlays)
    space = Axes(study, names, study.axes)
    expansion = expand(study, space)
    resolver = make_resolver(study, space, corpus, overlays)
    resolved = [resolver.resolve(arm) for arm in expansion.arms]
    if study.match != "none" and study.program is not None:
        raise study.refuse(("match",), "match adapts ablate's own models, but the arms run a program (legal: none)")
    if study.match != "none":
        resolved = _match(study, expansion, resolved)
    resolved = [resolver.fit(config, arm) for config, arm in zip(resolved, expansion.arms, strict=True)]
    arms, merged = _name_arms(study, expansion, resolved, corpus)
    stands_for = {arm_name(expansion.arms[other]): arm_name(expansion.arms[kept]) for other, kept in merged.items()}
    if len(arms) * len(study.seeds) > MAX_RUNS:
        n_runs = f"{len(arms):,} arms with {len(study.seeds):,} seeds are {len(arms) * len(study.seeds):,} runs"
        raise study.refuse(("seeds",), f"{n_runs} (legal: at most {MAX_RUNS:,})")
    runs = tuple(Run.of(arm, seed) for seed in study.seeds for arm in arms)
    check_parents(study, ((run.run_id, run.parent) for run in runs))
    if study.until_decided is not None:
        runs = runs[: study.until_decided.at_least * len(arms)]
    axes = {axis: tuple(level.label for level in levels) for axis, levels in expansion.axes.items()}
    common = [notice for notice in arms[0].notices if all(notice in arm.notices for arm in arms)]
    overridden = find_overridden_values(study, names, expansion)
    notices = (
        *expansion.notices,
        *overridden,
        *resolver.notices,
        *explain_merged(expansion, resolved, merged),
        *common,
    )
    if corpus.largest_token is not None and max(corpus.n_train_tokens, corpus.n_validation_tokens) > CHECKED_TOKENS:
        notices += (
            f"only the first {CHECKED_TOKENS:,} tokens of each split were checked against the vocabulary; "
            "`ablate run` checks all of them before it trains",
        )
    notices += corpus.notices
    if study.is_language_model:
        models = {arm.name: arm.model for arm in arms}
        notices += tuple(dict.fromkeys(find_other_starts((arm.model, models[arm.baseline]) for arm in arms)))
        notices += (*find_uneven_split(study, corpus), *find_spare_vocabulary(study, corpus, (a.model for a in arms)))
    baseline = _common_levels(arms)
    declared = study.design, study.match, study.compare_within
    evaluations = _choose_evaluations(study)
    return Plan(
        study, corpus, axes, baseline, arms, runs, notices, *declared, stands_for=stands_for, evaluations=evaluations
    )


def _choose_evaluations(study: Study) -> tuple[Choice, ...]:
    if not study.evaluations:
        return ()
    from ablate.evaluation.choose import ChoiceError, choose  # loads what the evaluations need

    chosen = []
    for index, entry in enumerate(study.evaluations):
        try:
            chosen.append(choose(entry.name, entry.knobs, study.folder, entry.every, entry.smallest_effect))
        except ChoiceError as error:
            raise study.refuse(("evaluations", index, *filter(None, [error.key])), str(error)) from None
    return tuple(chosen)


def _match(study: Study, expansion: Expansion, resolved: Sequence[Resolved]) -> list[Resolved]:
    result = []
    for assignment, index, own in zip(expansion.arms, expansion.baselines, resolved, strict=True):
        base = resolved[index]
        if own is base:
            result.append(own)
            continue
        if "model.d_ff" in own.settings:
            raise study.refuse(("match",), f"match adapts d_ff, which the arm {arm_name(assignment)} sets itself")
        try:
            model = match_size(own.model, base.model, study.match)
        except MatchError as error:
            raise study.refuse(("match",), f"the arm {arm_name(assignment)} {error}") from None
        changed = model.d_ff != own.model.d_ff
        note = (
            (f"d_ff {model.d_ff} instead of {own.model.d_ff}, to match its baseline in {study.match}",)
            if changed
            else ()
        )
        result.append(replace(own.with_model(model), notices=(*own.notices, *note)))
    return result


def _name_arms(
    study: Study, expansion: Expansion, resolved: Sequence[Resolved], corpus: CorpusInfo
) -> tuple[tuple[Arm, ...], dict[int, int]]:
    """The arms with their names, and the index of each dropped arm with that of the arm that stands for it.

    The first of several arms that train alike stands for all, with the identity of its own settings.
    """
    labels = [arm_name(assignment) for assignment in expansion.arms]
    _check_comparable(study, expansion, resolved)
    of_setups = identify_setups([config.setup for config in resolved], corpus.hash)
    identities = [tuple(map(config.complete, pair)) for config, pair in zip(resolved, of_setups, strict=True)]
    first: dict[str, int] = {}
    # A setting without an effect here may have one elsewhere in the space that `tune` searches.
    may_wake = _may_wake(study)
    keys = [own if may_wake else usual for own, usual in identities]
    kept = [first.setdefault(key, index) for index, key in enumerate(keys)]
    for label, times in Counter(label for index, label in enumerate(labels) if kept[index] == index).items():
        if times > 1:
            raise study.refuse(
                ("matrix",), f"{times} different arms would be named {label}: give their levels different labels"
            )
    arms = tuple(
        Arm(
            name=labels[index],
            axes=_levels(assignment),
            within={axis: level for axis, level in _levels(assignment).items() if axis in study.compare_within},
            baseline=labels[kept[expansion.baselines[index]]],
            setup=config.setup,
            notices=(*config.notices, *_find_beyond(config.setup, corpus)),
            identity=identities[index][0],
            start=config.start,
        )
        for index, (assignment, config) in enumerate(zip(expansion.arms, resolved, strict=True))
        if kept[index] == index
    )
    return arms, {index: other for index, other in enumerate(kept) if other != index}


def _check_comparable(study: Study, expansion: Expansion, resolved: Sequence[Resolved]) -> None:
    """Raises `GridError` if an arm is measured by other validation data than its baseline."""
    for arm, own, index in zip(expansion.arms, resolved, expansion.baselines, strict=True):
        if own.setup.measured != resolved[index].setup.measured:
            axes = [axis for axis in expansion.axes if axis.startswith("task.") and axis not in study.compare_within]
            advice = f"compare_within: {axes[0]}" if len(axes) == 1 else f"compare_within: [{', '.join(axes)}]"
            message = f"the arm {arm_name(arm)} and its baseline have other validation data: set `{advice}`"
            raise study.refuse(("matrix", *axes[:1]), message)


def _find_beyond(setup: Setup, corpus: CorpusInfo) -> Iterator[str]:
    if isinstance(setup, ModelSetup):
        yield from find_beyond(setup.train)
    if type(setup) is ModelSetup:
        yield from find_short_evaluation(setup.train, setup.model.context_length, corpus)


def _may_wake(study: Study) -> bool:
    """Tell if `tune` varies the model: trials of two arms may then differ even if the arms do not."""
    paths = [] if study.tune is None else [read_names(study).path(name) for name in study.tune.space]
    return any(path.startswith("model.") for path in paths)


def _levels(assignment: Assignment) -> dict[str, Any]:
    return {axis: level.label for axis, level in assignment.items()}


def _common_levels(arms: Sequence[Arm]) -> dict[str, Any]:
    """The levels that all baselines share."""
    baselines = [arm for arm in arms if arm.baseline == arm.name]
    return {
        axis: level for axis, level in baselines[0].axes.items() if all(b.axes.get(axis) == level for b in baselines)
    }
