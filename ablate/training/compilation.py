"""Compilation of models. A process reuses compiled code for later runs of the same kind."""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Hashable

import torch

from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig
from ablate_model.gpt import HeadedModel
from ablate_model.stacked import StackedModel

MAX_KINDS = 16
"""The number of kinds of model that are kept."""

_CALLS = 8  # per kind, at most: training, evaluation, its last rows, each micro-batch size that is tried

_kinds: set[Hashable] = set()


def compile_blocks(model: HeadedModel, train: TrainConfig) -> None:
    """Compile the blocks of a model and its loss, unless this process has done so for a model of the same kind."""
    _admit(model.config, train)
    model.compile_blocks()


def compile_stacked(model: StackedModel, train: TrainConfig) -> None:
    """Do the same for stacked models, whose number belongs to the kind."""
    _admit(model.models[0].config, train, len(model.models))
    model.compile()


def kind_of(config: ModelConfig, train: TrainConfig, n_models: int = 1) -> Hashable:
    """Return what models share that can share compiled code. `n_models` train as one batch of models."""
    return (config, n_models, *train.compiled_settings)


def _admit(config: ModelConfig, train: TrainConfig, n_models: int = 1) -> None:
    """Make room for the compiled code of another kind.

    torch finds the compiled code of earlier blocks by configuration and shapes, but silently stops compiling at a
    limit. So the limit is raised, and all compiled code is discarded before the limit is reached.
    """
    kind = kind_of(config, train, n_models)
    if kind not in _kinds and len(_kinds) >= MAX_KINDS:
        forget_compiled()
    _kinds.add(kind)
    torch._dynamo.config.recompile_limit = MAX_KINDS * _CALLS
    silence_compiler()


@functools.cache
def start_compilers() -> None:
    """Start the processes that compile kernels for a GPU, which need seconds to load torch, unless they have started.

    torch starts them when it has traced the first model, and compiles one kernel after another until they are ready.
    """
    from torch._inductor.async_compile import maybe_warm_pool

    maybe_warm_pool()


def silence_compiler() -> None:
    """Silence two warnings of torch.compile: to allow TF32, and that its tracer reads .grad of a block's input."""
    for message in ("TensorFloat32 tensor cores", "The .grad attribute of a Tensor"):
        warnings.filterwarnings("ignore", message=message, category=UserWarning)


def forget_compiled() -> None:
    """Discard all compiled code, so that the next model compiles as in a new process."""
    gc.unfreeze()  # see `keep_loaded`
    torch.compiler.reset()
    _kinds.clear()
