"""What a plan will cost: seconds, memory. Estimates, labelled as such wherever they are shown."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from ablate.formatting import format_count
from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig

# The share of a large matrix product's rate that the products of a model reach.
EFFICIENCY = 0.9
# How often each number that is kept for the backward pass goes through memory in a step. With it the steps of models 64
# to 384 wide on a CPU core, and of 11M and 304M parameters compiled on an H200, come out within a third.
MOVES = 9
# Bytes that AdamW reads and writes a parameter: weight, gradient and two moments read, all but the gradient written.
UPDATE_BYTES_PER_PARAMETER = 28
# Python and kernel launches for one layer's forward and backward pass.
OVERHEAD_S_PER_LAYER = 1.0e-3

STATE_BYTES_PER_PARAMETER = 16  # float32 weight, gradient and two Adam moments


@dataclass(frozen=True)
class Pace:
    """How fast one run's share of a machine is: at a large matrix product, and at moving bytes (read or written)."""

    flops_per_s: float
    bytes_per_s: float

    def __str__(self) -> str:
        flops, moved = format_count(self.flops_per_s), format_count(self.bytes_per_s)
        return f"{flops}FLOP/s for a large matrix product and {moved}B/s of memory"


def run_seconds(model: ModelConfig, train: TrainConfig, pace: Pace) -> float:
    """Seconds of one run at this pace.

    An evaluation is a forward pass, a third of a training step's work a token.
    """
    evaluations = -(-train.steps // train.eval_every)
    tokens = train.steps * train.batch_size * model.context_length + evaluations * train.eval_tokens / 3
    token_s = (
        model.flops_per_token() / (EFFICIENCY * pace.flops_per_s)
        + MOVES * _bytes_per_token(model, train) / pace.bytes_per_s
    )
    launches_s = 0.0 if train.cuda_graph else model.n_layers * OVERHEAD_S_PER_LAYER
    update_s = UPDATE_BYTES_PER_PARAMETER * model.num_params() / pace.bytes_per_s
    return tokens * token_s + train.steps * (update_s + launches_s)


def study_seconds(runs_s: Iterable[float], lanes: int) -> float:
    """Seconds until the last run ends where `lanes` of them go side by side, longest first."""
    ends = [0.0] * max(1, lanes)
    for seconds in sorted(runs_s, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def run_bytes(model: ModelConfig, train: TrainConfig) -> int:
    """Bytes of memory of one run: state, and the activations that the backward pass needs."""
    tokens = train.sequences_at_once * model.context_length
    return STATE_BYTES_PER_PARAMETER * model.num_params() + tokens * _bytes_per_token(model, train)


def least_bytes(model: ModelConfig, train: TrainConfig) -> int:
    """Bytes of memory that no run can do without: weights, gradients and the optimizer's state, however small the
    micro-batch."""
    width = 2 if model.weight_dtype == "bfloat16" else 8 if train.precision == "float64" else 4
    copies = 3 if train.optimizer == "muon" else 4  # Muon keeps one moment
    return copies * width * model.num_params()


def _bytes_per_token(model: ModelConfig, train: TrainConfig) -> int:
    """What the backward pass needs: about 16 d_model + 4 d_ff numbers a layer, and the logits three times."""
    width = 2 if train.precision == "bfloat16" else 8 if train.precision == "float64" else 4
    kept = model.n_layers * (16 * model.d_model + 4 * (model.d_ff or 4 * model.d_model))
    return kept * width + 3 * 4 * model.vocab_size
