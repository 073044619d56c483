"""`build_plan`: everything that is known about a study before training starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ablate.data import CHECKED_TOKENS, CorpusInfo
from ablate.plan.axes import Axes, arm_name
from ablate.plan.expand import Expansion, expand
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
from ablate.plan.start import check_parents
from ablate.plan.tasks import make_resolver, read_names
from ablate.study.declaration import Study
from ablate.study.overlay import Overlay
from ablate.tasks.task import NAME

if TYPE_CHECKING:
    from ablate.evaluation.choose import Choice
from ablate.plan.plan import Arm, Plan, Run

MAX_RUNS = 1_000_000


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
    evaluations = _choose_evaluations(study, arms[0].setup)
    return Plan(
        study, corpus, axes, baseline, arms, runs, notices, *declared, stands_for=stands_for, evaluations=evaluations
    )


def _choose_evaluations(study: Study, setup: Setup) -> tuple[Choice, ...]:
    """The evaluations of a study, in which `setup` is that of any arm: all have the same task.

    Raises `GridError` for one that cannot be used, or that cannot measure the models of the task.
    """
    if not study.evaluations:
        return ()
    from ablate.evaluation.choose import (  # loads what the evaluations need
        OWN_FORM,
        ChoiceError,
        choose,
        explain_misfit,
        find_class,
    )
    from ablate.evaluation.table import EVALUATIONS

    kind = model_setup(setup).model.kind
    offered = {"corpus", "tokenizer"} if study.is_language_model else set()
    if setup.name_tokenizer():
        offered.add("tokenizer")
    chosen = []
    for index, entry in enumerate(study.evaluations):
        try:
            choice = choose(entry.name, entry.knobs, study.folder, entry.every, entry.smallest_effect)
        except ChoiceError as error:
            raise study.refuse(("evaluations", index, *filter(None, [error.key])), str(error)) from None
        if reason := explain_misfit(type(choice.evaluation), kind, offered):
            fitting = [name for name in EVALUATIONS if not explain_misfit(find_class(name), kind, offered)]
            legal = f"{', '.join(fitting)}, {OWN_FORM}" if fitting else OWN_FORM.removeprefix("or ")
            message = f"{entry.name} does not fit the task {study.task[NAME]}: {reason} (legal: {legal})"
            raise study.refuse(("evaluations", index), message)
        chosen.append(choice)
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
            axes=levels,
            within={axis: level for axis, level in levels.items() if axis in study.compare_within},
            baseline=labels[kept[expansion.baselines[index]]],
            setup=config.setup,
            notices=(*config.notices, *_find_beyond(config.setup, corpus)),
            identity=identities[index][0],
            start=config.start,
        )
        for index, (assignment, config) in enumerate(zip(expansion.arms, resolved, strict=True))
        if kept[index] == index
        for levels in [{axis: level.label for axis, level in assignment.items()}]
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


def _common_levels(arms: Sequence[Arm]) -> dict[str, Any]:
    """The levels that all baselines share."""
    baselines = [arm for arm in arms if arm.baseline == arm.name]
    return {
        axis: level for axis, level in baselines[0].axes.items() if all(b.axes.get(axis) == level for b in baselines)
    }
