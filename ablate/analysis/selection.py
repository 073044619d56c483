"""Other views of a study: some of its arms, another baseline, or several studies as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ablate.analysis.peeking import find_larger_looks, find_peeks
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve
from ablate.errors import AblateError, suggest
from ablate.metrics import list_metrics
from ablate.study.predicates import Predicate, PredicateError
from ablate.study.settings import find_same, is_same
from ablate.tracking.study_record import ArmRecord, StudyRecord
from ablate.tracking.values import Value, read_level

STUDY_AXIS = "study"


def select(results: Results, where: str) -> Results:
    """Select the runs for which an expression over axes, `arm` and `seed` holds, and keep their baselines.

    Raises `AblateError` if it does not parse, names an unknown axis or level, or holds for no run.
    """
    try:
        predicate = Predicate(where)
        _check_names(results, predicate)
        kept = [run for run in results.runs if predicate(_describe(results, run.arm, run.seed))]
    except PredicateError as error:
        raise AblateError(f"where: {error}") from None
    if not kept:
        raise AblateError(f"where: {where!r} holds for no run of {results.record.study}")
    return keep_runs(results, kept)


def keep_runs(results: Results, kept: Sequence[RunCurve]) -> Results:
    """Keep these runs, and all runs of their baselines."""
    arms = {run.arm for run in kept}
    baselines = {results.baseline_of(arm) for arm in arms}
    chosen = [arm for arm in results.record.arms if arm.arm in arms or arm.arm in baselines]
    ids = {(run.arm, run.seed) for run in kept}
    runs = [run for run in results.runs if (run.arm, run.seed) in ids or run.arm in baselines]
    return _rebuild(results, chosen, runs)


def rebase(results: Results, baseline: Mapping[str, Value]) -> Results:
    """Compare every arm with the arm that has these levels and shares its levels on all other axes.

    `{"arm": name}` makes one arm the baseline of all. Levels may be given as text.
    Raises `AblateError` if an axis or level is unknown, or an arm has no such baseline.
    """
    if set(baseline) == {"arm"}:
        name = str(baseline["arm"])
        if name not in results.arms:
            name = next((arm for arm in results.arms if is_same(read_level(arm), read_level(name))), name)
        if name not in results.arms:
            raise AblateError(f"baseline: there is no arm {name!r}{suggest(name, results.arms)}")
        arms = [replace(arm, baseline=name) for arm in results.record.arms]
        return _rebuild(results, arms, results.runs)
    wanted = {axis: _find_level(results, axis, level) for axis, level in baseline.items()}
    arms = [replace(arm, baseline=_find_baseline(results, arm, wanted)) for arm in results.record.arms]
    return _rebuild(results, arms, results.runs, wanted)


def measure_by(results: Results, name: str) -> Results:
    """Compare the arms by another metric of the study.

    Raises `AblateError` if the study has no such metric.
    """
    metrics = results.record.metrics
    if name not in metrics:
        raise AblateError(f"metric: {results.record.study} has no metric {name!r}{suggest(name, metrics)}")
    is_same = name == results.metric.name
    smallest = results.record.smallest_effect if is_same else None  # it is in the unit of the other metric
    record = replace(results.record, metrics={name: metrics[name], **metrics}, smallest_effect=smallest, looks=())
    ordered = list_metrics(record.metrics)
    return Results(record, tuple(replace(run, metrics=ordered) for run in results.runs))


def merge(studies: Sequence[Results]) -> Results:
    """Join several studies. Each arm is named `study: arm`, has the axis `study`, and keeps its own baseline.

    Raises `AblateError` if two studies share a name.
    """
    names = [results.record.study for results in studies]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise AblateError(f"two of the studies are named {twice[0]!r}: only studies of different names can be compared")
    first = studies[0].record
    for results in studies[1:]:
        if results.metric != studies[0].metric:
            texts = [f"{r.record.study} by {r.metric.name} ({r.metric.direction} is better)" for r in studies]
            raise AblateError(f"the studies are compared by different metrics: {', '.join(texts)}")
        if results.record.seed_rule != first.seed_rule:
            raise AblateError("studies that train `until: decided` can only be compared with others of the same rule")
    axes: dict[str, tuple[Value, ...]] = {STUDY_AXIS: tuple(names)}
    for results in studies:
        for axis, levels in results.record.axes.items():
            axes[axis] = tuple(dict.fromkeys((*axes.get(axis, ()), *levels)))
    records = [results.record for results in studies]
    smallest = [results.smallest_effect for results in studies if results.smallest_effect is not None]
    record = replace(
        first,
        study=" + ".join(names),
        question=" ".join(record.question for record in records if record.question),
        design="comparison",
        match=" + ".join(dict.fromkeys(record.match for record in records)),
        compare_within=(STUDY_AXIS, *dict.fromkeys(axis for record in records for axis in record.compare_within)),
        axes=axes,
        data=_merge_data(records),
        metrics=dict(metric for metric in first.metrics.items() if all(metric in r.metrics.items() for r in records)),
        smallest_effect=min(smallest, default=None),
        smallest_results=_merge_smallest(records),
        tuning=_merge_tuning(records),
        predict=first.predict if all(record.predict == first.predict for record in records) else {},
        caveats=tuple(f"{record.study}: {caveat}" for record in records for caveat in _list_caveats(record)),
        arms=tuple(_rename_arm(arm, record.study) for record in records for arm in record.arms),
        runs=tuple(replace(run, arm=f"{record.study}: {run.arm}") for record in records for run in record.runs),
        command="\n".join(record.command for record in records if record.command),
        looks=(),
        history=(),
    )
    metrics = list_metrics(record.metrics)
    runs = tuple(replace(run, arm=f"{r.record.study}: {run.arm}", metrics=metrics) for r in studies for run in r.runs)
    return Results(record, runs)


def _merge_data(records: Sequence[StudyRecord]) -> dict[str, Any]:
    keys = dict.fromkeys(key for record in records for key in record.data)
    values = {key: list(dict.fromkeys(str(record.data.get(key)) for record in records)) for key in keys}
    return {key: found[0] if len(found) == 1 else ", ".join(found) for key, found in values.items()}


def _merge_smallest(records: Sequence[StudyRecord]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for record in records:
        for label, differences in record.smallest_results.items():
            known = found.setdefault(label, {})
            known |= {name: min(size, known.get(name, size)) for name, size in differences.items()}
    return found


def _merge_tuning(records: Sequence[StudyRecord]) -> dict[str, Any]:
    """How the arms of all studies were tuned, by their new names."""
    found: dict[str, Any] = {}
    for record in records:
        arms = record.tuning.get("arms")
        found |= {f"{record.study}: {arm}": how for arm, how in arms.items()} if isinstance(arms, Mapping) else {}
    return {"arms": found} if found else {}


def _list_caveats(record: StudyRecord) -> Iterator[str]:
    yield from record.caveats
    if find_peeks(record) or find_larger_looks(record):
        yield "its seeds changed after a look at its results, and its verdicts do not account for that"


def _rename_arm(arm: ArmRecord, study: str) -> ArmRecord:
    return replace(
        arm,
        arm=f"{study}: {arm.arm}",
        baseline=f"{study}: {arm.baseline}",
        axes={STUDY_AXIS: study, **arm.axes},
        within={STUDY_AXIS: study, **arm.within},
    )


def _rebuild(
    results: Results, arms: Sequence[ArmRecord], runs: Sequence[Any], baseline: Mapping[str, Value] | None = None
) -> Results:
    kept = {(run.arm, run.seed) for run in runs}
    record = replace(
        results.record,
        arms=tuple(arms),
        runs=tuple(run for run in results.record.runs if (run.arm, run.seed) in kept),
        baseline=results.record.baseline if baseline is None else dict(baseline),
        looks=(),  # they judged other arms together
    )
    return replace(results, record=record, runs=tuple(runs))


def _check_names(results: Results, predicate: Predicate) -> None:
    legal = (*results.record.axes, "arm", "seed")
    for name in sorted(predicate.names):
        if name not in legal:
            raise AblateError(f"where: {results.record.study} has no axis {name!r}{suggest(name, legal)}")
    for name, text in sorted(predicate.literals):
        levels = (*results.arms,) if name == "arm" else results.record.axes.get(name, ())
        if levels and any(isinstance(level, str) for level in levels) and text not in levels:
            raise AblateError(f"where: {name} has no level {text!r}{suggest(text, levels)}")


def _describe(results: Results, arm: str, seed: int) -> Mapping[str, Value]:
    return {**dict.fromkeys(results.record.axes), **results.arms[arm].axes, "arm": arm, "seed": seed}


def _find_level(results: Results, axis: str, level: Value) -> Value:
    if axis not in results.record.axes:
        legal = (*results.record.axes, "arm")
        raise AblateError(f"baseline: {results.record.study} has no axis {axis!r}{suggest(axis, legal)}")
    levels = results.record.axes[axis]
    index = find_same(str(level), map(str, levels))
    if index is None:  # written differently: 1e-3 for 0.001
        index = find_same(read_level(str(level)), levels)
    if index is not None:
        return levels[index]
    raise AblateError(f"baseline: {axis} has no level {str(level)!r}{suggest(level, levels)}")


def _find_baseline(results: Results, arm: ArmRecord, wanted: Mapping[str, Value]) -> str:
    for other in results.record.arms:
        is_named = all(is_same(other.axes.get(axis), level) for axis, level in wanted.items())
        is_matched = all(is_same(arm.axes.get(axis), level) for axis, level in other.axes.items() if axis not in wanted)
        if is_named and is_matched:
            return other.arm
    levels = ", ".join(f"{axis}={level}" for axis, level in wanted.items())
    raise AblateError(f"baseline: no arm with {levels} matches {arm.arm} on the other axes; name those too")
