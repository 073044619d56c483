"""What a plan will cost: seconds, memory. Estimates, labelled as such wherever they are shown."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig

# The share of a large matrix product's rate that a whole training step reaches.
EFFICIENCY = 0.5
# Python and kernel launches for one layer's forward and backward pass.
OVERHEAD_S_PER_LAYER = 1.0e-3

STATE_BYTES_PER_PARAMETER = 16  # float32 weight, gradient and two Adam moments


def run_seconds(model: ModelConfig, train: TrainConfig, flops_per_s: float) -> float:
    """Seconds of one run on a device whose large matrix products reach `flops_per_s`.

    An evaluation is a forward pass, a third of a training step's FLOPs a token.
    """
    tokens = train.steps * train.batch_size * model.context_length
    evaluations = -(-train.steps // train.eval_every)
    work = model.flops_per_token() * (tokens + evaluations * train.eval_tokens / 3)
    return work / (flops_per_s * EFFICIENCY) + train.steps * model.n_layers * OVERHEAD_S_PER_LAYER


def study_seconds(runs_s: Iterable[float], lanes: int) -> float:
    """Seconds until the last run ends where `lanes` of them go side by side, longest first."""
    ends = [0.0] * max(1, lanes)
    for seconds in sorted(runs_s, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def run_bytes(model: ModelConfig, train: TrainConfig) -> int:
    """Bytes of memory of one run: state, and the activations that the backward pass needs.

    Per token and layer about 16 d_model + 4 d_ff numbers are kept, and the logits three times.
    """
    tokens = train.sequences_at_once * model.context_length
    width = 2 if train.precision == "bfloat16" else 8 if train.precision == "float64" else 4
    kept = model.n_layers * (16 * model.d_model + 4 * (model.d_ff or 4 * model.d_model))
    return STATE_BYTES_PER_PARAMETER * model.num_params() + tokens * (kept * width + 3 * 4 * model.vocab_size)
