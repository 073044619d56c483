"""Estimates of what a plan costs in time and memory. Every place that shows them calls them estimates."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from ablate.formatting import format_count
from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig

# The rate of a model's matrix products, as a share of the rate of a large one.
EFFICIENCY = 0.9
# How often a step moves each number that it keeps for the backward pass through memory. With this value, estimates are
# within a third for models of width 64 to 384 on a CPU core, and for 11M and 304M parameters compiled on an H200.
MOVES = 9
# Bytes that AdamW moves per parameter: it reads weight, gradient and two moments, and writes all but the gradient.
UPDATE_BYTES_PER_PARAMETER = 28
# Python and kernel launches for one layer's forward and backward pass.
OVERHEAD_S_PER_LAYER = 1.0e-3

# A worker's Python, PyTorch and Ray on a CPU: four runs of a 164k-parameter model, estimated at 22.5 MB, peaked at 516
# to 613 MB. Only shown, never a reason to refuse a study.
PROCESS_BYTES = 0.6e9

STATE_BYTES_PER_PARAMETER = 16  # float32 weight, gradient and two Adam moments


@dataclass(frozen=True)
class Pace:
    """The speed of one run's share of a machine: at a large matrix product, and at reading or writing memory."""

    flops_per_s: float
    bytes_per_s: float

    def __str__(self) -> str:
        flops, moved = format_count(self.flops_per_s), format_count(self.bytes_per_s)
        return f"{flops}FLOP/s for a large matrix product and {moved}B/s of memory"


ORDER_PACE = Pace(1e11, 1e10)  # where only the ratios between runs matter


def run_seconds(
    model: ModelConfig,
    train: TrainConfig,
    pace: Pace,
    eval_tokens: float | None = None,
    row_tokens: int | None = None,
) -> float:
    """Seconds of one run at this pace.

    `eval_tokens` replaces the number of tokens per evaluation, and `row_tokens` that per row of a batch.

    An evaluation is a forward pass: per token, a third of the work of a training step.
    """
    evaluations = -(-train.steps // train.eval_every)
    measured = train.eval_tokens if eval_tokens is None else eval_tokens
    tokens = train.steps * train.batch_size * (row_tokens or model.context_length) + evaluations * measured / 3
    token_s = (
        model.flops_per_token() / (EFFICIENCY * pace.flops_per_s)
        + MOVES * _bytes_per_token(model, train) / pace.bytes_per_s
    )
    launches_s = 0.0 if train.cuda_graph else model.blocks_per_token() * OVERHEAD_S_PER_LAYER
    update_s = UPDATE_BYTES_PER_PARAMETER * model.num_params() / pace.bytes_per_s
    return tokens * token_s + train.steps * (update_s + launches_s)


def study_seconds(runs_s: Iterable[float], slots: int) -> float:
    """Seconds until the last run ends when `slots` runs train side by side, longest first."""
    ends = [0.0] * max(1, slots)
    for seconds in sorted(runs_s, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def run_bytes(model: ModelConfig, train: TrainConfig, row_tokens: int | None = None) -> int:
    """Bytes of memory of one run: its state, and the activations for the backward pass.

    `row_tokens` replaces the number of tokens per row of a batch.
    """
    tokens = train.sequences_at_once * (row_tokens or model.context_length)
    return STATE_BYTES_PER_PARAMETER * model.num_params() + tokens * _bytes_per_token(model, train)


def least_bytes(model: ModelConfig, train: TrainConfig) -> int:
    """Bytes of memory that a run needs with any micro-batch: weights, gradients and the optimizer's state."""
    width = 2 if model.weight_dtype == "bfloat16" else 8 if train.precision == "float64" else 4
    copies = 2 + train.optimizer_variant.n_moments  # weights and gradients
    return copies * width * model.num_params()


def _bytes_per_token(model: ModelConfig, train: TrainConfig) -> int:
    """Bytes per token for the backward pass: about 16 d_model + 4 d_ff numbers per layer, and the logits thrice."""
    width = 2 if train.precision == "bfloat16" else 8 if train.precision == "float64" else 4
    kept = round(model.blocks_per_token() * (16 * model.d_model + 4 * (model.d_ff or 4 * model.d_model)))
    return kept * width + 3 * 4 * model.vocab_size
