"""The only module in which a plan asks which task a declaration has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ablate.data import SHARDS, CorpusInfo, describe
from ablate.plan.axes import Axes
from ablate.plan.own_names import NO_OWN, read_own_variants
from ablate.plan.program import ProgramResolver
from ablate.plan.program_names import ProgramNames
from ablate.plan.program_setup import NO_CORPUS
from ablate.plan.resolve import Resolver
from ablate.plan.setting_names import Names
from ablate.study.declaration import Declaration
from ablate.study.overlay import Overlay
from ablate.study.yaml_source import Place
from ablate_model import ModelConfig, variants


def read_names(declared: Declaration | None = None, overlays: Sequence[Overlay] = ()) -> Names:
    """The legal names of settings: those of the model package and of the user's files, or of a program."""
    if declared is not None and declared.program is not None:
        return ProgramNames(declared.settings)
    own = NO_OWN if declared is None else read_own_variants(declared, overlays)
    return Names(variants(), {name: field.default for name, field in ModelConfig.model_fields.items()}, own)


def make_resolver(
    declared: Declaration,
    axes: Axes,
    corpus: CorpusInfo,
    overlays: Sequence[Overlay] = (),
    budget: Mapping[str, Place] | None = None,
) -> Resolver:
    """The resolver of a declaration's arms. Raises `GridError` for a base that cannot work."""
    kind = ProgramResolver if declared.program is not None else Resolver
    return kind(declared, axes, corpus, overlays, budget)


def describe_corpus(declared: Declaration, runs: Path) -> CorpusInfo:
    """The corpus of a declaration; an empty one for a program. Raises `DataError` if it cannot be used.

    `runs` is the folder of all studies, where `ablate data prepare` keeps the shards.
    """
    if declared.program is not None:
        return NO_CORPUS
    return describe(declared.data, declared.folder, runs / SHARDS)
