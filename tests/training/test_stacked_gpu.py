"""Stacked runs on a CUDA device, against the same runs by themselves."""

from __future__ import annotations

import pytest
import torch
from test_loop_gpu import FAST_DRIFT, ROUNDING_32

from ablate.training.language_model import LanguageModelling
from ablate.training.loop import train
from ablate.training.stacked import Member, train_stacked
from ablate_model import ModelConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor", "ignore:TensorFloat32 tensor cores"),
]

SEEDS = (0, 3)
ARMS = [
    ("standard", "prenorm"),
    ("standard", "ngpt"),
    ("differential", "ngpt"),
    ({"name": "differential_v2", "n_kv_heads": 2}, "prenorm"),
    ({"name": "linear_ensemble", "num_maps": 3}, "ngpt"),
    ({"name": "standard", "window": 8}, "prenorm"),
]


@pytest.fixture
def compare(corpus, new_recording, model_config, make_train_config):
    """Train a stack and its runs by themselves, and return the largest difference of their training losses (nats)."""

    def compare_runs(attention, normalization, **settings):
        data = {"vocab_size": model_config.vocab_size, "context_length": 32}
        sizes = {"d_model": 64, "n_layers": 2, "n_heads": 4}
        model = ModelConfig(**sizes, **data, attention=attention, normalization=normalization)
        config = make_train_config(eval_tokens=320, **settings)
        task = LanguageModelling(model, corpus, config.eval_tokens)
        options = {"device": "cuda", "threads": 1, "should_stop": lambda: False}
        stacked = {seed: new_recording() for seed in SEEDS}
        outcomes = train_stacked(task, config, [Member(s, r) for s, r in stacked.items()], **options)
        assert [outcome.state for outcome in outcomes] == ["finished"] * len(SEEDS)
        differences = []
        for seed, recording in stacked.items():
            alone = new_recording()
            train(task, config, seed, alone, **options)
            for one, other in zip(recording.curve(), alone.curve(), strict=True):
                assert one.keys() == other.keys()
                differences += [abs(one[key] - other[key]) for key in ("train_loss", "val_loss") if key in one]
        return max(differences)

    return compare_runs


@pytest.mark.parametrize(("attention", "normalization"), ARMS, ids=str)
def test_a_stack_trains_as_its_runs_do(compare, attention, normalization):
    difference = compare(attention, normalization, steps=20, cuda_graph=True, grad_clip=0.3)
    assert difference < 10 * ROUNDING_32  # losses are below 4 nats, and 20 steps amplify more than a dozen


def test_the_fast_path_of_a_stack_drifts_no_more_than_that_of_a_run(compare):
    """Compiled, bfloat16, one graph. One arm, because most of the time goes into compiling it twice."""
    settings = {"steps": 100, "learning_rate": 3e-3, "weight_decay": 0.0, "log_every": 25, "eval_every": 50}
    fast = {"compile": True, "precision": "bfloat16", "cuda_graph": True}
    assert compare("differential", "ngpt", **settings, **fast) < 2 * FAST_DRIFT
