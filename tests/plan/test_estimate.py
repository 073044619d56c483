"""The estimated cost of a plan, against a step counted by hand."""

from __future__ import annotations

import pytest

from ablate.plan.estimate import Pace, least_bytes, run_bytes, run_seconds, study_seconds
from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig

MODEL = ModelConfig(d_model=64, n_layers=2, n_heads=4, d_ff=256, vocab_size=256, context_length=32)
TRAIN = TrainConfig(steps=10, batch_size=4, eval_every=5, eval_tokens=96)
KEPT = 2 * (16 * 64 + 4 * 256) * 4 + 3 * 4 * 256
"""Bytes a token: two layers in float32, and the logits three times."""


def test_a_run_takes_the_time_of_its_products_its_memory_and_its_launches() -> None:
    tokens = 10 * 4 * 32 + 2 * 96 / 3  # an evaluation is a third of a training step's work
    products = run_seconds(MODEL, TRAIN, Pace(1e6, 1e30))
    assert products == pytest.approx(tokens * MODEL.flops_per_token() / (0.9 * 1e6) + 10 * 2 * 1e-3)
    moved = run_seconds(MODEL, TRAIN, Pace(1e30, 1e6))
    assert moved == pytest.approx((tokens * 9 * KEPT + 10 * 28 * MODEL.num_params()) / 1e6 + 10 * 2 * 1e-3)
    assert run_seconds(MODEL, TRAIN, Pace(1e30, 1e30)) == pytest.approx(10 * 2 * 1e-3)
    graphed = TRAIN.model_copy(update={"cuda_graph": True})
    assert run_seconds(MODEL, graphed, Pace(1e30, 1e30)) == pytest.approx(0.0, abs=1e-12)


def test_half_the_width_is_half_the_memory_of_what_is_kept() -> None:
    state = 16 * MODEL.num_params()
    assert run_bytes(MODEL, TRAIN) == state + 4 * 32 * KEPT
    halved = TRAIN.model_copy(update={"precision": "bfloat16", "micro_batch_size": 2})
    assert run_bytes(MODEL, halved) == state + 2 * 32 * ((KEPT - 3 * 4 * 256) // 2 + 3 * 4 * 256)


def test_the_least_memory_is_that_of_weights_gradients_and_moments() -> None:
    n_params = MODEL.num_params()
    assert least_bytes(MODEL, TRAIN) == 16 * n_params < run_bytes(MODEL, TRAIN)
    assert least_bytes(MODEL, TRAIN.model_copy(update={"optimizer": "muon"})) == 12 * n_params
    assert least_bytes(MODEL, TRAIN.model_copy(update={"precision": "float64"})) == 32 * n_params
    assert least_bytes(MODEL.model_copy(update={"weight_dtype": "bfloat16"}), TRAIN) == 8 * n_params
    assert least_bytes(MODEL, TRAIN.model_copy(update={"batch_size": 4000})) == 16 * n_params


def test_runs_side_by_side_end_with_the_longest_first() -> None:
    assert study_seconds([1.0, 3.0, 2.0, 2.0], 2) == 4.0
    assert study_seconds([], 2) == 0.0


def test_a_pace_in_words() -> None:
    assert str(Pace(1.56e11, 8e9)) == "156GFLOP/s for a large matrix product and 8GB/s of memory"
