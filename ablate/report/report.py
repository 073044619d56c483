"""All numbers and sentences of a report, independent of the format in which they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ablate.analysis.capabilities import Capability, find_capabilities
from ablate.analysis.comparison import TARGETS, Target
from ablate.analysis.differences import Difference, find_differences
from ablate.analysis.effects import Effect, find_effects, why_no_effects
from ablate.analysis.evaluations import EvaluationResult, FailedEvaluation, compare_evaluations, find_failed
from ablate.analysis.fairness import Fairness, check_fairness
from ablate.analysis.full_schedule import full_schedule_speed_ups
from ablate.analysis.importance import Importance, find_importance
from ablate.analysis.looks import Look as SeedLook
from ablate.analysis.looks import follow
from ablate.analysis.repeats import Reruns, find_reruns
from ablate.analysis.results import Results
from ablate.analysis.run_curve import AXES, device_of
from ablate.analysis.scaling import Prediction, ScalingLaw, find_predictions, find_scaling_laws
from ablate.analysis.selection import rebase, select
from ablate.analysis.speedup import SpeedUp, speed_ups
from ablate.analysis.summary import ArmSummary, Mishap, find_mishaps, summarize_arms
from ablate.analysis.trend import Trend, find_trends
from ablate.analysis.uneven import find_uneven
from ablate.analysis.untuned import Untuned, find_untuned
from ablate.errors import AblateError, suggest
from ablate.formatting import count
from ablate.metrics import Metric
from ablate.report.cautions import describe_cautions
from ablate.report.encoding import Look, Scales, assign_looks, collect_scales
from ablate.report.finding import rank_arms
from ablate.report.growth_and_interactions import describe_growth, describe_interactions
from ablate.report.headline import state_result
from ablate.report.looks import describe_seeds
from ablate.report.notation import LISTED, join_with_and, name_rest
from ablate.report.scale import describe_predictions
from ablate.report.verdict import state_verdict
from ablate.tracking.arm_labels import find_shared, label_arms
from ablate.tracking.study_record import StudyRecord
from ablate.tracking.values import Value
from ablate.tracking.verifications import Verification


@dataclass(frozen=True)
class ReportOptions:
    """The choices that a user makes for a report.

    `targets`: the targets of the ladder. The headline's target is `final` if it is among them, otherwise the last one.
    `axis`: the headline's axis of cost, by default tokens, or steps unless every run recorded tokens.
    `where`: an expression over axes, `arm` and `seed` that selects runs. Their baselines always stay.
    `baseline`: another baseline, as axis to level or as `arm` to a name.
    `figures`: write all figures as SVG and PDF, not only those of the Markdown page.
    `measured_step_s`: seconds per step by arm from a benchmark, for runs whose clock times cannot be compared.
    Raises `AblateError` if the axis is not in `analysis.AXES` or there is no target.
    """

    targets: tuple[Target, ...] = TARGETS
    axis: str | None = None
    where: str | None = None
    baseline: Mapping[str, Value] | None = None
    figures: bool = False
    measured_step_s: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.axis is not None and self.axis not in AXES:
            raise AblateError(f"axis {self.axis!r}: there is no such axis of cost{suggest(self.axis, AXES)}")
        if not self.targets:
            raise AblateError(
                f"no target to report on (legal: {', '.join(map(str, TARGETS))}, or a value of the metric)"
            )

    @property
    def headline(self) -> Target:
        return "final" if "final" in self.targets else self.targets[-1]


_MINUTES = re.compile(r" --minutes[ =]\S+")


@dataclass(frozen=True, eq=False)
class Report:
    """The numbers of a study, the sentences that answer its question, and the paths of the pages once written.

    `verdict` is one sentence, or two if wall-clock time says something else; for a study that compares nothing, it is
    the first sentence of the answer. `answer` is the result, then sentences about seeds that looks decided on, and
    about growth and interactions if the design has them, then price and caveats.
    """

    record: StudyRecord
    options: ReportOptions
    results: Results
    axis: str
    axes: tuple[str, ...]
    rows: tuple[SpeedUp, ...]
    full_schedule: tuple[SpeedUp, ...]
    trends: tuple[Trend, ...]
    predictions: tuple[Prediction, ...]
    scaling_laws: tuple[ScalingLaw, ...]
    differences: tuple[Difference, ...]
    effects: tuple[Effect, ...]
    importance: tuple[Importance, ...]
    arms: tuple[ArmSummary, ...]
    fairness: tuple[Fairness, ...]
    untuned: Untuned | None
    reruns: Reruns | None
    mishaps: tuple[Mishap, ...]
    verdict: tuple[str, ...]
    answer: tuple[str, ...]
    versions: Mapping[str, str]
    evaluations: tuple[EvaluationResult, ...] = ()
    failed_evaluations: tuple[FailedEvaluation, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    paths: Mapping[str, Path] = field(default_factory=dict)
    others: tuple[Path, ...] = ()  # figures and tables
    seed_looks: tuple[SeedLook, ...] = ()  # of `until: decided`
    verifications: tuple[Verification, ...] = ()  # what fresh seeds said about the verdicts

    @property
    def metric(self) -> Metric:
        """The metric by which the arms are compared."""
        return self.record.metric

    @property
    def command(self) -> str:
        """The command that trains the study, without the time limit of the machine on which it ran."""
        return _MINUTES.sub("", self.record.command)

    @cached_property
    def table_axes(self) -> tuple[str, ...]:
        """The axes of cost in tables. GPU-seconds appear only if they can differ from seconds."""
        is_same = len({run.n_gpus for run in self.results.runs}) == 1
        return tuple(axis for axis in self.axes if axis != "gpu_seconds" or axis == self.axis or not is_same)

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The name of each arm on the pages."""
        return label_arms(self.record.arms)

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """The look of each arm in every chart."""
        ranked = rank_arms(self.differences, self.results.compared_arms, self.metric)
        return assign_looks(self.results, self.labels, ranked)

    @cached_property
    def scales(self) -> Scales:
        return collect_scales(self.looks)

    @cached_property
    def headline_rows(self) -> tuple[SpeedUp, ...]:
        """The rows at the headline's target, on all axes of cost, arm by arm."""
        return tuple(row for row in self.rows if row.target == self.options.headline)

    @cached_property
    def growths(self) -> tuple[Trend, ...]:
        """The trends on the headline's axis of cost, if their target, the final value, is reported."""
        return tuple(t for t in self.trends if t.axis == self.axis) if "final" in self.options.targets else ()

    @cached_property
    def growth_figures(self) -> Mapping[str, tuple[Trend, ...]]:
        """The trends of each growth figure, one figure per axis: `growth`, `growth-2` and so on."""
        alongs = dict.fromkeys(trend.along for trend in self.growths)
        return {
            f"growth-{place}" if place > 1 else "growth": tuple(t for t in self.growths if t.along == along)
            for place, along in enumerate(alongs, 1)
        }

    @cached_property
    def difference_of(self) -> Mapping[str, Difference]:
        """The difference of final values of each arm that has one."""
        return {row.arm: row for row in self.differences}

    def headline_of(self, arm: str) -> Mapping[str, SpeedUp]:
        return self._headlines.get(arm, {})

    @cached_property
    def _headlines(self) -> Mapping[str, Mapping[str, SpeedUp]]:
        by_arm: dict[str, dict[str, SpeedUp]] = {}
        for row in self.headline_rows:
            by_arm.setdefault(row.arm, {})[row.axis] = row
        return by_arm

    @property
    def is_complete(self) -> bool:
        return not any(arm.n_unfinished for arm in self.arms)

    @property
    def data_facts(self) -> dict[str, str]:
        """The record's facts about the corpus as text, with the hash only if the manifests have another one."""
        facts = {
            name: ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            for name, value in self.record.data.items()
            if value is not None
        }
        known = {"", self.versions.get("data hash")}
        return {name: text for name, text in facts.items() if text not in known}


def make_report(results: Results, options: ReportOptions) -> Report:
    """Compute all numbers and sentences, without writing anything.

    Raises `AblateError` if the options name something that the study does not have.
    """
    if options.baseline:
        results = rebase(results, options.baseline)
    if options.where:
        results = select(results, options.where)
    axes = results.cost_axes
    is_left_out = any(run.why_no_cost("tokens") for run in results.runs)
    unknown = _name_without_tokens(results) if "tokens" in axes and not is_left_out else []
    axis = options.axis or ("tokens" if "tokens" in axes and not is_left_out and not unknown else "steps")
    if axis not in axes:
        reason = "not every run held a GPU" if axis == "gpu_seconds" else "no run recorded it"
        raise AblateError(f"axis {axis!r}: {reason}{suggest(axis, axes)}")
    rows = speed_ups(results, options.targets, measured_step_s=options.measured_step_s)
    full_schedule, trends, effects = full_schedule_speed_ups(results), find_trends(results), find_effects(results, axis)
    evaluations, failed = compare_evaluations(results), find_failed(results)
    capabilities = find_capabilities(results, evaluations)
    arms, fairness = summarize_arms(results, options.measured_step_s), check_fairness(results)
    headline = tuple(row for row in rows if row.target == options.headline)
    labels, shared = label_arms(results.record.arms), find_shared(results.record.arms)
    known = list(results.record.caveats)
    if unknown and options.axis is None:
        names = join_with_and([labels[arm] for arm in unknown[:LISTED]] + name_rest(unknown))
        known.append(f"costs are compared in steps, because the tokens of {names} are not known")
    if reason := why_no_effects(results):
        known.append(reason)
    if failed:
        known.append(f"{count(len(failed), 'evaluation')} failed, so their means lack seeds, or are missing")
    metric, differences = results.metric, find_differences(results)
    untuned, reruns, predictions = find_untuned(results), find_reruns(results.runs), find_predictions(results)
    finding, caveats = state_result(
        differences, headline, full_schedule, arms, fairness, axis, labels, known, metric, results.smallest_effect
    )
    growing = trends if "final" in options.targets else ()  # trends are of the final value
    interactions = describe_interactions(effects, results.record.compare_within, metric, shared)
    uneven = find_uneven(results, differences)
    cautions = describe_cautions(untuned, differences, uneven, reruns, labels, metric)
    rule = results.record.seed_rule
    course = follow(results, rule) if rule is not None else None
    seeds = describe_seeds(results, course, differences)
    scale = describe_predictions(predictions, metric, shared)
    further = (*seeds, *describe_growth(growing, axis, metric, shared), *scale, *interactions)
    seconds = [row for row in headline if row.axis == "seconds"]
    diverged = [arm.arm for arm in arms if arm.n_diverged == arm.n_runs]
    verdict = state_verdict(
        differences, seconds, results.compared_arms, labels, metric, results.smallest_effect, diverged
    )
    return Report(
        record=results.record,
        options=options,
        results=results,
        axis=axis,
        axes=axes,
        rows=rows,
        full_schedule=full_schedule,
        trends=trends,
        predictions=predictions,
        scaling_laws=find_scaling_laws(results),
        differences=differences,
        effects=effects,
        importance=find_importance(results),
        arms=arms,
        fairness=fairness,
        untuned=untuned,
        reruns=reruns,
        mishaps=find_mishaps(results),
        verdict=verdict or (finding,),
        answer=(finding, *further, " ".join((caveats, *cautions))),
        versions=collect_versions(results),
        evaluations=evaluations,
        failed_evaluations=failed,
        capabilities=capabilities,
        seed_looks=tuple(course.looks) if course is not None else (),
    )


def _name_without_tokens(results: Results) -> list[str]:
    """The arms that have a run whose tokens were not recorded."""
    return [
        arm for arm in results.arms if any(not np.isfinite(run.cost("tokens")).any() for run in results.ended_runs(arm))
    ]


def collect_versions(results: Results) -> dict[str, str]:
    """Versions, commits and data hashes of all runs, joined by commas if runs differ."""
    found: dict[str, set[str]] = {}
    for run in results.runs:
        manifest: Mapping[str, Any] = run.manifest
        versions = manifest.get("versions")
        entries = dict(versions) if isinstance(versions, Mapping) else {}
        commit = manifest.get("commit")
        entries["commit"] = f"{commit} (with uncommitted changes)" if commit and manifest.get("dirty") else commit
        entries["data hash"] = manifest.get("data_hash")
        if isinstance(mode := manifest.get("deterministic"), bool) and device_of(manifest).get("kind") == "cuda":
            entries["deterministic"] = "yes" if mode else "no"  # a CPU always is
        for name, value in entries.items():
            if value:
                found.setdefault(str(name), set()).add(str(value))
    return {name: ", ".join(sorted(values)) for name, values in sorted(found.items())}
