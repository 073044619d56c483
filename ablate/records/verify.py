"""Check the verdicts of a published report with fresh seeds: which arms and seeds, and what came out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ablate.analysis.differences import Difference, find_differences
from ablate.analysis.peeking import find_peeks
from ablate.analysis.power import detectable_difference, seeds_needed
from ablate.analysis.replication import judge_replication, measure
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve, device_of
from ablate.analysis.selection import measure_by
from ablate.errors import AblateError, RecordError, suggest
from ablate.plan import Plan
from ablate.plan.identity import arm_id
from ablate.tracking.arm_labels import label_arms
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import read_mapping
from ablate.tracking.study_record import ENDED
from ablate.tracking.verifications import Change, Verification, VerifiedArm, VerifiedRun, read_verifications

SUFFIX = "-verify"
MAX_NAME = 100 - len(SUFFIX)

COMPARED = ("precision", "attention_backend", "threads", "shared_by", "gpus", "processes", "deterministic", "commit")
"""What is compared between the manifests of the published and the fresh runs, besides devices and versions."""


def name_verification(study: str) -> str:
    """The name of the study that verifies another one, which is also its folder under --runs."""
    return f"{study[:MAX_NAME]}{SUFFIX}"


def choose_arms(results: Results, asked: Sequence[str], store: StudyFolder) -> tuple[str, ...]:
    """The arms to train, each with its baseline, in the order of the report.

    They are the arms that `asked` names, by name or label, by default all that the report compares; and those that the
    verification in `store` has already. Raises `AblateError` for an unknown arm, and for a baseline, which has no
    verdict.
    """
    labels = label_arms(results.record.arms)
    by_label = {label: arm for arm, label in labels.items()}
    wanted = set(() if asked else results.compared_arms)
    for word in asked:
        arm = word if word in results.arms else by_label.get(word)
        legal = [labels[name] for name in results.compared_arms]
        if arm is None:
            raise AblateError(f"--arm {word}: {results.record.study} has no such arm{suggest(word, legal)}")
        if arm not in results.compared_arms:
            raise AblateError(
                f"--arm {word}: it is a baseline, which is trained in any case (legal: {', '.join(legal)})"
            )
        wanted.add(arm)
    if not wanted:
        raise AblateError(f"{results.record.study}: it compares no arms, so it has no verdict to check")
    if store.record.exists():
        wanted |= {arm.arm for arm in store.read_study().arms} & set(results.compared_arms)
    chosen = wanted | {results.baseline_of(arm) for arm in wanted}
    return tuple(arm for arm in results.arms if arm in chosen)


def choose_seeds(results: Results, n: int, folder: Path, store: StudyFolder) -> tuple[int, ...]:
    """`n` fresh seeds: above every seed of the report, of its tuning, and of the verifications beside it.

    A verification in `store` keeps its seeds, so the same command resumes it, and gets more if `n` is larger. It never
    loses one: leaving out results that are known would bias the outcome.
    """
    used = {run.seed for run in results.runs} | set(_find_trial_seeds(folder))
    used |= {seed for made in read_verifications(folder).values() for seed in made.seeds}
    own = tuple(dict.fromkeys(run.seed for run in store.read_study().runs)) if store.record.exists() else ()
    first = max((*used, *own), default=-1) + 1
    return (*own, *range(first, first + n - len(own)))


def _find_trial_seeds(folder: Path) -> Iterable[int]:
    path = folder / "tuning" / "summary.json"
    if not os.path.lexists(path):  # most reports have no trials
        return []
    seeds = read_mapping(path).get("seeds")
    return [seed for seed in seeds if isinstance(seed, int)] if isinstance(seeds, list) else []


def describe_power(results: Results, names: Sequence[str], n_seeds: int) -> list[str]:
    """Say which differences fresh seeds detect in 80 % of cases, if they scatter as the published ones do."""
    labels, unit = label_arms(results.record.arms), results.metric.unit
    rows = [row for row in find_differences(results) if row.arm in names]
    lines = []
    for row in rows:
        if row.sd is None or n_seeds < 2:
            continue
        detectable = detectable_difference(row.sd, len(rows), n_seeds)
        line = f"{labels[row.arm]}: published {row.verdict}, {row.estimate:+.4f}{unit}; {n_seeds} seeds detect a "
        line += f"difference of {detectable:.4f}{unit} in 80 % of cases"
        if row.verdict in ("better", "worse") and abs(row.estimate) < detectable:
            needed = seeds_needed(row.estimate, row.sd, len(rows))
            line += f", so --seeds {needed} is better" if needed is not None else ""
        lines.append(line)
    return lines


def describe_devices(results: Results, names: Sequence[str]) -> str:
    """Say on which devices the published runs of these arms were trained."""
    facts = _collect_facts(run for name in names for run in results.runs_of(name))
    return f"the published runs used {facts.get('device') or 'devices that are not recorded'}"


def conclude(results: Results, fresh: Results, plan: Plan) -> Verification:
    """Compare the published verdicts on the plan's arms with those of the fresh runs so far."""
    record, metric = results.record, results.metric
    if fresh.metric != metric:
        fresh = measure_by(fresh, metric.name)
    names = [arm.name for arm in plan.arms]
    published = {row.arm: row for row in find_differences(results)}
    found = {row.arm: row for row in find_differences(fresh)}
    labels, identities = label_arms(record.arms), {arm.name: arm_id(arm.identity) for arm in plan.arms}
    arms = [
        _conclude_arm(published[name], found.get(name), labels[name], identities[name], fresh, results.smallest_effect)
        for name in names
        if name in published and name in results.compared_arms
    ]
    if not arms:
        raise RecordError(f"{record.study}: it has no final {metric.short} of these arms that could be checked")
    hashes = sorted({arm.setup.data_hash(plan.corpus.hash) for arm in plan.arms})
    return Verification(
        study=record.study,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        metric=metric.name,
        direction=metric.direction,
        smallest_effect=results.smallest_effect,
        data_hash=", ".join(hashes),
        seeds=tuple(dict.fromkeys(run.seed for run in plan.runs)),
        looks=find_peeks(fresh.record),
        is_complete=all(run.status.state in ENDED and not run.flaw for run in fresh.runs),
        differences=find_changes([run for name in names for run in results.runs_of(name)], fresh.runs),
        arms=tuple(arms),
        runs=tuple(
            VerifiedRun(
                run_id=run.run_id,
                arm=run.arm,
                seed=run.seed,
                state=run.state,
                value=run.final_loss if np.isfinite(run.final_loss) else None,
            )
            for run in fresh.runs
        ),
    )


def _conclude_arm(
    published: Difference, row: Difference | None, label: str, identity: str, fresh: Results, margin: float | None
) -> VerifiedArm:
    sides = (*fresh.runs_of(published.arm), *fresh.runs_of(published.baseline))
    claimed, found = measure(published), None if row is None else measure(row)
    judgment = judge_replication(claimed, found, margin, sum(run.is_diverged for run in sides))
    return VerifiedArm(
        arm=published.arm,
        label=label,
        baseline=published.baseline,
        identity=identity,
        outcome=judgment.outcome,
        reason=judgment.reason,
        size=judgment.size,
        published=claimed,
        fresh=found,
    )


def find_changes(published: Iterable[RunCurve], fresh: Iterable[RunCurve]) -> tuple[Change, ...]:
    """What differs between the manifests of the published runs and of the fresh ones: devices, versions, the commit."""
    there, here = _collect_facts(published), _collect_facts(fresh)
    return tuple(
        Change(what=what, published=there.get(what, ""), here=here.get(what, ""))
        for what in dict.fromkeys((*there, *here))
        if there.get(what) != here.get(what)
    )


def _collect_facts(runs: Iterable[RunCurve]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for run in runs:
        if run.status.state not in ENDED:
            continue
        manifest: Mapping[str, Any] = run.manifest
        facts = {"device": device_of(manifest).get("name"), **{key: manifest.get(key) for key in COMPARED}}
        facts |= manifest.get("versions") or {}
        if facts["commit"] and manifest.get("dirty"):
            facts["commit"] = f"{facts['commit']} (with uncommitted changes)"
        for what, value in facts.items():
            if value is not None and value != "":
                found.setdefault(what, set()).add(str(value))
    return {what: ", ".join(sorted(values)) for what, values in found.items()}


def check_begun(plan: Plan, store: StudyFolder) -> None:
    """Raise `RecordError` if a verification that was begun in `store` is of other settings: the report has changed."""
    if not store.record.exists():
        return
    known, names = {run.run_id for run in plan.runs}, {arm.name for arm in plan.arms}
    for run in store.read_study().runs:
        if run.arm in names and run.run_id not in known:
            raise RecordError(
                f"{store.path}: it has begun to verify another version of the report (its run {run.run_id} of "
                f"{run.arm} has other settings); move the folder away, or name another one with --runs"
            )
