"""`build_plan`: everything that is known of a study before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ablate.data import CHECKED_TOKENS, CorpusInfo
from ablate.plan.expand import Assignment, Expansion, arm_name, display, expand
from ablate.plan.identity import arm_identity, run_id
from ablate.plan.match import MatchError, match_size
from ablate.plan.names import Names
from ablate.plan.resolve import Resolved, Resolver
from ablate.study.overlay import Overlay
from ablate.study.schema import Study, TrainConfig
from ablate.study.source import Path
from ablate_model import ModelConfig, variants

UNEVEN = 3.0  # the factor by which a validation split may miss its share before the plan says so


@dataclass(frozen=True)
class Arm:
    """One cell of the matrix, fully resolved.

    `axes` maps each axis that exists for it to its level's label; `within` those of `compare_within`; `baseline` is the
    name of the arm it is compared with, its own where it is one.
    """

    name: str
    axes: Mapping[str, Any]
    within: Mapping[str, Any]
    baseline: str
    model: ModelConfig
    train: TrainConfig
    notices: tuple[str, ...]
    identity: str

    @cached_property
    def n_params(self) -> int:
        return self.model.num_params()

    @cached_property
    def flops_per_token(self) -> int:
        """Of a training step: forward and backward."""
        return self.model.flops_per_token()

    @property
    def n_tokens(self) -> int:
        """Tokens that a run of the arm trains on."""
        return self.train.steps * self.train.batch_size * self.model.context_length


@dataclass(frozen=True)
class Run:
    """One training run: an arm with a seed."""

    run_id: str
    arm: Arm
    seed: int


@dataclass(frozen=True)
class Plan:
    """The arms and the runs of a study, seed by seed, so that what has finished early is already comparable."""

    study: Study
    corpus: CorpusInfo
    axes: Mapping[str, tuple[Any, ...]]
    baseline: Mapping[str, Any]
    arms: tuple[Arm, ...]
    runs: tuple[Run, ...]
    notices: tuple[str, ...]
    tuning: Mapping[str, Any] = field(default_factory=dict)  # how settings were looked for, where they were
    stands_for: Mapping[str, str] = field(default_factory=dict)  # an arm left out, to the one of its configuration

    @property
    def total_flops(self) -> int:
        return sum(run.arm.flops_per_token * run.arm.n_tokens for run in self.runs)


def build_plan(study: Study, corpus: CorpusInfo, overlays: Sequence[Overlay] = ()) -> Plan:
    """Expand, resolve, lay the overlays over, match and identify.

    Raises `GridError` for whatever cannot work, naming the place in the grid, and `DataError` where the corpus is
    shorter than a context.
    """
    names = read_names()
    expansion = expand(study, names)
    resolver = Resolver(study, names, expansion.axes, corpus, overlays)
    resolved = [resolver.resolve(arm) for arm in expansion.arms]
    if study.match != "none":
        resolved = _match(study, expansion, resolved)
    arms, stands_for = _name_arms(study, expansion, resolved, corpus)
    runs = tuple(Run(run_id(arm.identity, seed), arm, seed) for seed in study.seeds for arm in arms)
    axes = {axis: tuple(level.label for level in levels) for axis, levels in expansion.axes.items()}
    common = [notice for notice in arms[0].notices if all(notice in arm.notices for arm in arms)]
    idle = _find_idle_values(study, names, expansion)
    merged = [
        f"the arm {other} is the same configuration as {name}, which stands for both"
        for other, name in stands_for.items()
    ]
    notices = (*expansion.notices, *idle, *resolver.notices, *merged, *common)
    if corpus.largest_token is not None and max(corpus.n_train_tokens, corpus.n_validation_tokens) > CHECKED_TOKENS:
        notices += (
            f"tokens beyond the vocabulary were looked for in the first {CHECKED_TOKENS:,} of each split; "
            "`ablate run` looks at all before it trains",
        )
    notices += tuple(_find_uneven_split(study, corpus))
    baseline = _common_levels(arms)
    return Plan(study, corpus, axes, baseline, arms, runs, notices, stands_for=stands_for)


def read_names() -> Names:
    """The names that a declaration may use, as the model package has them."""
    return Names(variants(), {name: field.default for name, field in ModelConfig.model_fields.items()})


def _find_uneven_split(study: Study, corpus: CorpusInfo) -> Iterator[str]:
    """Few files, or very unequal ones, leave a split by whole files far from the share that was asked for."""
    data = study.data
    share = corpus.n_validation_tokens / (corpus.n_train_tokens + corpus.n_validation_tokens)
    is_near = data.validation_fraction / UNEVEN <= share <= data.validation_fraction * UNEVEN
    if data.source == "text" and not data.validation_path and not is_near:
        yield (
            f"whole files are kept for validation, chosen by a hash of their content: {share:.1%} of the tokens, where "
            f"data.validation_fraction is {data.validation_fraction:.1%}; data.validation_path would choose them"
        )


def _find_idle_values(study: Study, names: Names, expansion: Expansion) -> Iterator[str]:
    """About values of `model:` in whose place every arm takes a level of an axis. One that is a baseline's level
    surprises nobody, nor does the default of an axis that `--set` gave."""
    for axis in expansion.axes:
        place, value = _find_base_value(study, names.path(axis))
        if (
            value is not None
            and all(axis in arm for arm in expansion.arms)
            and not study.locate(("matrix", axis)).startswith("--set")
        ):
            levels = {
                display(level.label): level.name for level in (expansion.arms[i][axis] for i in expansion.baselines)
            }
            if value not in levels.values():
                yield (
                    f"{study.locate(place)}: {display(value)} is overridden: every arm takes a level of the axis "
                    f"{axis!r}, the baseline {' or '.join(levels)}"
                )


def _find_base_value(study: Study, path: str) -> tuple[Path, Any]:
    """Where `model:` sets a dotted path, and to what; None where it does not, and for the name of a component with
    knobs, which says whose they are."""
    place: Path = ()
    value: Any = {"model": study.model}
    for part in path.split("."):
        if isinstance(value, str) and part == "name":
            break
        if not isinstance(value, Mapping) or (part == "name" and len(value) > 1):
            return place, None
        place, value = (*place, part), value.get(part)
    return place, value


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
        result.append(replace(own, model=model, notices=(*own.notices, *note)))
    return result


def _name_arms(
    study: Study, expansion: Expansion, resolved: Sequence[Resolved], corpus: CorpusInfo
) -> tuple[tuple[Arm, ...], dict[str, str]]:
    """The arms with their names. Of several that come to the same configuration the first stands for all: the name of
    each of the others to its name."""
    labels = [arm_name(assignment) for assignment in expansion.arms]
    identities = [arm_identity(config.model, config.train, corpus.hash) for config in resolved]
    first: dict[str, int] = {}
    for index, identity in enumerate(identities):
        first.setdefault(identity, index)
    arms: list[Arm] = []
    stands_for: dict[str, str] = {}
    for label, count in Counter(
        label for index, label in enumerate(labels) if first[identities[index]] == index
    ).items():
        if count > 1:
            raise study.refuse(
                ("matrix",), f"{count} different arms would be named {label}: give their levels other labels"
            )
    for index, (assignment, config) in enumerate(zip(expansion.arms, resolved, strict=True)):
        if first[identities[index]] != index:
            stands_for[labels[index]] = labels[first[identities[index]]]
            continue
        arms.append(
            Arm(
                name=labels[index],
                axes=_levels(assignment),
                within={axis: level for axis, level in _levels(assignment).items() if axis in study.compare_within},
                baseline=labels[first[identities[expansion.baselines[index]]]],
                model=config.model,
                train=config.train,
                notices=config.notices,
                identity=identities[index],
            )
        )
    return tuple(arms), stands_for


def _levels(assignment: Assignment) -> dict[str, Any]:
    return {axis: level.label for axis, level in assignment.items()}


def _common_levels(arms: Sequence[Arm]) -> dict[str, Any]:
    """The levels that all baselines share: what the study calls its baseline."""
    baselines = [arm for arm in arms if arm.baseline == arm.name]
    return {
        axis: level for axis, level in baselines[0].axes.items() if all(b.axes.get(axis) == level for b in baselines)
    }
