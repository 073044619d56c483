"""The only module in which a plan asks which task a declaration has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.data import SHARDS, CorpusInfo, describe
from ablate.metrics import LANGUAGE_MODEL as LANGUAGE_MODEL_METRICS
from ablate.metrics import Direction, metrics_of_phases
from ablate.plan.axes import Axes
from ablate.plan.own_names import NO_OWN, read_own_variants
from ablate.plan.program import ProgramResolver
from ablate.plan.program_names import ProgramNames
from ablate.plan.program_setup import NO_CORPUS
from ablate.plan.resolve import Resolver
from ablate.plan.setting_names import Names
from ablate.plan.task_resolver import TaskResolver
from ablate.study.declaration import Declaration
from ablate.study.overlay import Overlay
from ablate.study.yaml_source import Place
from ablate.tasks.task import LANGUAGE_MODEL, NAME, Task, knob_defaults, read_task, task_class
from ablate_model import ConfigError, ModelConfig, variants


def read_names(declared: Declaration | None = None, overlays: Sequence[Overlay] = ()) -> Names:
    """The legal names of settings: those of the model package and of the user's files, or of a program."""
    if declared is not None and declared.program is not None:
        return ProgramNames(declared.settings)
    own = NO_OWN if declared is None else read_own_variants(declared, overlays)
    if declared is None or declared.is_language_model:
        return Names(variants(), _field_defaults(ModelConfig), own)
    task = _find_task(declared)
    return Names(variants(task.config_class), _field_defaults(task.config_class), own, knob_defaults(task))


def _field_defaults(kind: type[ModelConfig]) -> dict[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items() if name not in kind.derived}


def _find_task(declared: Declaration) -> type[Task]:
    """The class of a declaration's task. Raises `GridError` for an unknown one."""
    name = declared.task[NAME]
    try:
        return task_class(name)
    except ConfigError as error:
        if name == LANGUAGE_MODEL:
            raise declared.refuse(
                ("task",), f"{name} has no settings here: it reads `data`, `model` and `train`"
            ) from None
        raise declared.refuse(("task",), error.message) from None


def metrics_of(declared: Declaration) -> Mapping[str, Direction]:
    """The metrics of a declaration's runs, with the better direction of each. Arms are compared by the first."""
    if declared.program is not None:
        return declared.program.metrics
    if declared.is_language_model:
        return metrics_of_phases(LANGUAGE_MODEL_METRICS, "loss") if declared.data.sequence else LANGUAGE_MODEL_METRICS
    _find_task(declared)
    try:
        return read_task(declared.task).metrics
    except ConfigError as error:
        raise declared.refuse(("task", *filter(None, error.path.split("."))), error.message) from None


def make_resolver(
    declared: Declaration,
    axes: Axes,
    corpus: CorpusInfo,
    overlays: Sequence[Overlay] = (),
    budget: Mapping[str, Place] | None = None,
) -> Resolver:
    """The resolver of a declaration's arms. Raises `GridError` for a base that cannot work."""
    kind: type[Resolver] = ProgramResolver if declared.program is not None else TaskResolver
    if declared.is_language_model:
        kind = Resolver
    return kind(declared, axes, corpus, overlays, budget)


def describe_corpus(declared: Declaration, runs: Path) -> CorpusInfo:
    """The corpus of a declaration; an empty one unless language models are trained.

    `runs` is the folder of all studies, where `ablate data prepare` keeps the shards. Raises `DataError` if the corpus
    cannot be used.
    """
    if not declared.is_language_model:
        return NO_CORPUS
    return describe(declared.data, declared.folder, runs / SHARDS)
