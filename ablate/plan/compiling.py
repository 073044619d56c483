"""What `train.compile: auto` means for an arm."""

from __future__ import annotations

from collections.abc import Sequence

from ablate.formatting import format_count
from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig

COMPILED_FLOPS = 1e13
"""Runs from this size on compile: minutes on two CPU cores, where compiling takes most of a minute and its gain is a
tenth of the run or more. It depends on no machine, so that a run which resumes elsewhere computes the same."""


def choose_compile(train: TrainConfig, model: ModelConfig) -> tuple[TrainConfig, Sequence[str]]:
    """Replace `auto` by a choice that depends only on shapes and steps. Returns a remark about it, too."""
    if train.compile != "auto":
        return train, ()
    flops = train.steps * train.batch_size * model.context_length * model.flops_per_token()
    compiles = flops >= COMPILED_FLOPS
    words = "compiled, with at least" if compiles else "not compiled, with fewer than"
    remark = f"train.compile auto: {words} {format_count(COMPILED_FLOPS)}FLOPs per run"
    return train.model_copy(update={"compile": compiles}), (remark,)
