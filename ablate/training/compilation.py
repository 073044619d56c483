"""What torch.compile makes for a model, kept for the runs of the same kind that a process trains after it."""

from __future__ import annotations

import warnings
from collections.abc import Hashable

import torch

from ablate.study.schema import TrainConfig
from ablate_model import GPT

MAX_KINDS = 16
"""So many kinds of model are kept at once."""

_CALLS = 8  # of one kind, at most: training, evaluation, its last rows, each micro-batch that is tried

_kinds: set[Hashable] = set()


def compile_blocks(model: GPT, train: TrainConfig) -> None:
    """Compile the blocks of a model and its loss, unless this process has done so for a model of the same kind.

    torch finds a block's compiled code among that of all blocks before, by configuration and shapes, but silently stops
    compiling where there is more than its limit: so the limit is raised, and all is forgotten before it is reached.
    """
    kind = (model.config, train.batch_size, train.micro_batch_size, train.precision, train.recompute)
    if kind not in _kinds and len(_kinds) >= MAX_KINDS:
        forget_compiled()
    _kinds.add(kind)
    torch._dynamo.config.recompile_limit = MAX_KINDS * _CALLS
    silence_compiler()
    model.compile_blocks()


def silence_compiler() -> None:
    """Nobody hears torch.compile's advice to allow TF32, nor that its tracer looks at .grad of a block's input."""
    for message in ("TensorFloat32 tensor cores", "The .grad attribute of a Tensor"):
        warnings.filterwarnings("ignore", message=message, category=UserWarning)


def forget_compiled() -> None:
    """Let the next model compile as if it were this process's first."""
    torch.compiler.reset()
    _kinds.clear()
