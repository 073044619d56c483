"""Rebuild what a published report trained, from the configurations of its runs, to train the same arms again.

The grid of a study may have changed since, and `tune:` chose settings that no grid contains. A report has the full
configuration of every run, so its arms are built from those. The ids of the published runs, computed again, prove that
the settings, the variants, the user's files and the data are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, ValidationError

from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve, device_of
from ablate.data import CorpusInfo
from ablate.errors import RecordError
from ablate.evaluation.subject import parse_data
from ablate.plan import Arm, Plan, Run
from ablate.plan.setup import ModelSetup, Resolved, Setup
from ablate.plan.task_setup import TaskSetup
from ablate.study.declaration import Study
from ablate.study.schema import TrainConfig
from ablate.study.yaml_source import Source
from ablate.tasks.task import read_task
from ablate_model import ConfigError
from ablate_model.kinds import parse_config


class RebuiltStudy(Study):
    """The declaration of a rebuilt study. Relative paths of its data start at `folder`."""

    _base: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        return self._base


def declare(results: Results, names: Sequence[str], place: Path, base: Path, name: str) -> RebuiltStudy:
    """Declare the study of these arms again, under another name. `base` is where relative paths of its data start.

    Raises `RecordError`, naming the `place`, for runs that cannot be rebuilt: those of a program, and those that start
    from the weights of other runs.
    """
    record, config = results.record, read_config(results, names[0], place)
    if "program" in config:
        raise RecordError(f"{place}: its runs are those of a program; --grid GRID names the grid that starts it")
    if "start_from" in config:
        raise RecordError(
            f"{place}: its runs start from the weights of other runs, which a report does not contain; use "
            "`ablate run GRID --seeds +N` where they are"
        )
    declared: dict[str, Any] = {
        "study": name,
        "question": record.question,
        "model": config["model"],
        "train": config["train"],
        "matrix": {axis: list(levels) for axis, levels in record.axes.items()} or {"arm": list(names)},
        "smallest_effect": record.smallest_effect,
        "resources": _find_resources(results, names),
    }
    declared |= {"task": config["task"]} if "task" in config else {"data": parse_data(record.data, place)}
    try:
        study = RebuiltStudy.model_validate(declared)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise RecordError(f"{place}: this version of ablate cannot train its runs: {key}: {problem['msg']}") from None
    study._source, study._base = Source(str(place)), base
    return study


def read_config(results: Results, arm: str, place: Path) -> Mapping[str, Any]:
    """The configuration of an arm, from one of its runs. `check_same` finds out if the others have another one.

    Raises `RecordError` if it is not recorded.
    """
    for run in results.runs_of(arm):
        if "program" in run.config or ("model" in run.config and "train" in run.config):
            return run.config
    raise RecordError(f"{place}: the settings of {arm} are not recorded, so it cannot be trained again")


def _find_resources(results: Results, names: Iterable[str]) -> dict[str, Any]:
    """The resources of one run, as the manifests have them."""
    manifests = [run.manifest for name in names for run in results.runs_of(name)]
    gpus = [manifest.get("gpus") for manifest in manifests if device_of(manifest).get("kind") == "cuda"]
    processes = max((manifest.get("processes") or 1 for manifest in manifests), default=1)
    threads = max((manifest.get("threads") or 1 for manifest in manifests), default=1)
    return {"cpus": threads, "gpus": max(filter(None, gpus), default=1.0) if gpus else 0, "processes": processes}


def build(
    study: RebuiltStudy, results: Results, names: Sequence[str], seeds: Sequence[int], corpus: CorpusInfo, place: Path
) -> Plan:
    """Plan runs of these arms of a report with other seeds.

    Raises `RecordError` if the data are not those of the report, or if this version of ablate would train something
    else.
    """
    arms = tuple(_rebuild_arm(study, results, name, corpus, place) for name in names)
    record = results.record
    plan = Plan(
        study=study.replace(seeds=tuple(seeds)),
        corpus=corpus,
        axes=record.axes,
        baseline=record.baseline,
        arms=arms,
        runs=tuple(Run.of(arm, seed) for seed in seeds for arm in arms),
        notices=(),
        compare_within=record.compare_within,
    )
    check_same(plan, results, place)
    return plan


def take(plan: Plan, results: Results, names: Sequence[str], seeds: Sequence[int], name: str, place: Path) -> Plan:
    """Plan runs of these arms with other seeds, from the `plan` of the study's own grid, under another name.

    Raises `RecordError` if the grid has no such arm, or would train something else.
    """
    known = {arm.name: arm for arm in plan.arms}
    if missing := [arm for arm in names if arm not in known]:
        raise RecordError(f"{plan.study.file}: it has no arm {missing[0]}, which {place} reports")
    arms = tuple(known[arm] for arm in names)
    runs = tuple(Run.of(arm, seed) for seed in seeds for arm in arms)
    taken = replace(
        plan,
        study=plan.study.replace(name=name, seeds=tuple(seeds)),
        arms=arms,
        runs=runs,
        design="full",
        evaluations=(),
    )
    check_same(taken, results, place)
    return taken


def check_same(plan: Plan, results: Results, place: Path) -> None:
    """Check that the plan's arms are those of the report, by the data and by the ids of the published runs.

    Raises `RecordError` for other data, other settings or other code.
    """
    for arm in plan.arms:
        runs = results.runs_of(arm.name)
        here = arm.setup.data_hash(plan.corpus.hash)
        for published in sorted({str(run.manifest.get("data_hash") or "") for run in runs} - {""}):
            if published != here:
                raise RecordError(
                    f"{place}: the data are not those of the report: hash {published[:12]} there, {here[:12]} here"
                    f"{_explain_stdlib(results, runs)}"
                )
        changed = [run for run in runs if Run.of(arm, run.seed).run_id != run.run_id]
        if changed:
            raise RecordError(
                f"{place}: this version of ablate would train something else for {arm.name}: its run with seed "
                f"{changed[0].seed} has the id {changed[0].run_id}, and here it would be "
                f"{Run.of(arm, changed[0].seed).run_id}"
            )


def _explain_stdlib(results: Results, runs: Iterable[RunCurve]) -> str:
    if results.record.data.get("source") != "python-stdlib":
        return ""
    versions = {str(known.get("python")) for run in runs if isinstance(known := run.manifest.get("versions"), Mapping)}
    return f"; python-stdlib is that of the running Python, and the report used {', '.join(sorted(versions))}"


def _rebuild_arm(study: RebuiltStudy, results: Results, name: str, corpus: CorpusInfo, place: Path) -> Arm:
    record, config = results.arms[name], read_config(results, name, place)
    try:
        setup = _rebuild_setup(config, study.folder)
    except ConfigError as error:
        path = f"{error.path}: " if error.path else ""
        raise RecordError(
            f"{place}: {name} cannot be trained by this version of ablate: {path}{error.message}"
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, ("train", *problem["loc"])))
        raise RecordError(f"{place}: {name} cannot be trained by this version: {key}: {problem['msg']}") from None
    identity = Resolved(setup, (), frozenset()).identity(corpus.hash)
    return Arm(name, record.axes, record.within, record.baseline, setup, (), identity)


def _rebuild_setup(config: Mapping[str, Any], base: Path) -> Setup:
    model, train = parse_config(config["model"]), TrainConfig.model_validate(config["train"])
    if "task" not in config:
        return ModelSetup(model, train)
    task = read_task(config["task"])
    return TaskSetup(model, train, task, task.describe(base), base)
